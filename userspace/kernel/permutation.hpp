// The key under which kernel pointers leave the kernel (bpf/maps.bpf.h, fdspan_hide).
#pragma once

#include "base/result.hpp"
#include "wire.h"

namespace fdspan {

// Fills settings.round_keys from the kernel's random numbers: Speck64/128's key schedule.
[[nodiscard]] Result<void> make_permutation_key(fdspan_settings& settings);

}  // namespace fdspan
