#include "kernel/permutation.hpp"

#include <sys/random.h>

#include <array>
#include <bit>
#include <cerrno>

namespace fdspan {

Result<void> make_permutation_key(fdspan_settings& settings) {
    std::array<std::uint32_t, 4> key{};
    if (::getrandom(key.data(), sizeof(key), 0) != static_cast<ssize_t>(sizeof(key))) return fail_errno(errno, "getrandom");
    std::array<std::uint32_t, FDSPAN_ROUNDS + 3> l{key[1], key[2], key[3]};
    std::uint32_t k = key[0];
    for (std::uint32_t i = 0; i < FDSPAN_ROUNDS; ++i) {
        settings.round_keys[i] = k;
        l[i + 3] = (k + std::rotr(l[i], 8)) ^ i;
        k = std::rotl(k, 3) ^ l[i + 3];
    }
    return {};
}

}  // namespace fdspan
