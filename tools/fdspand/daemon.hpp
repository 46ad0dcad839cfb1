// The daemon's loop: one thread that traces and answers; the event log writes in one of its own.
#pragma once

#include <memory>
#include <string>

#include "base/result.hpp"
#include "config.hpp"

namespace fdspan::daemon {

// Where a configuration comes from, so that SIGHUP can read it again.
using LoadConfig = std::function<Result<Config>()>;

// Runs until SIGTERM or SIGINT. The signals have to be blocked in every thread by then.
Result<void> run(Config config, const LoadConfig& reload);

}  // namespace fdspan::daemon
