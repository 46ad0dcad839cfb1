// Result<T>: how every fallible function of fdspan returns. No exception leaves the library.
#pragma once

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include <tl/expected.hpp>

namespace fdspan {

// An errno value, and a sentence that tells a user what failed and, where known, what to do about it.
struct [[nodiscard]] Error {
    int code = EINVAL;
    std::string message;
};

template <class T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(int code, std::string message) {
    return tl::unexpected<Error>(Error{code, std::move(message)});
}

// `what` names the action and its object: "open /proc/1/fd". The errno's own text is appended.
inline tl::unexpected<Error> fail_errno(int code, const std::string& what) {
    return fail(code, what + ": " + std::generic_category().message(code));
}

}  // namespace fdspan
