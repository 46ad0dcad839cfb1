// What the daemon may still do once everything is attached.
#pragma once

namespace fdspan::daemon {

// Keeps the capabilities that following and answering take, in this thread and in all that it makes from now on. Without any to give up it does
// nothing; a failure is said and is no reason to stop.
void drop_privileges();

}  // namespace fdspan::daemon
