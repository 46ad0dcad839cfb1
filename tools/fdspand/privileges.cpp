#include "privileges.hpp"

#include <cap-ng.h>
#include <linux/capability.h>
#include <sys/prctl.h>

#include <spdlog/spdlog.h>

namespace fdspan::daemon {
namespace {

// CAP_BPF and CAP_PERFMON are of Linux 5.8; iterators read with them, and maps are looked up. The others look at other users' processes, and
// write files where root owned the directory.
constexpr unsigned kept[] = {CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE};

}  // namespace

void drop_privileges() {
    if (::capng_get_caps_process() != 0) {
        spdlog::warn("cannot read the capabilities of this process; they are kept");
        return;
    }
    if (::capng_have_capabilities(CAPNG_SELECT_CAPS) == CAPNG_NONE) return;
    capng_results_t had[CAP_LAST_CAP + 1];
    for (unsigned capability = 0; capability <= CAP_LAST_CAP; ++capability) {
        had[capability] = ::capng_have_capability(CAPNG_PERMITTED, capability) != 0 ? CAPNG_FULL : CAPNG_NONE;
    }
    ::capng_clear(CAPNG_SELECT_CAPS);
    for (const unsigned capability : kept) {
        if (had[capability] == CAPNG_FULL) {
            ::capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED), capability);
        }
    }
    if (::capng_apply(CAPNG_SELECT_CAPS) != 0) spdlog::warn("cannot give up capabilities that are not needed any more");
    // Nothing that it could ever run gets more.
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) spdlog::warn("cannot set no_new_privs");
}

}  // namespace fdspan::daemon
