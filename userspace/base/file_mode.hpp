// The file type in the bits of st_mode or i_mode.
#pragma once

#include <sys/stat.h>

#include <cstdint>

#include "base/reference.hpp"

namespace fdspan {

// `without_type`: what a mode without type bits means to the caller (anon_inodes have none in what stat shows).
[[nodiscard]] constexpr FileType file_type_of_mode(std::uint32_t mode, FileType without_type) {
    switch (mode & S_IFMT) {
        case S_IFREG: return FileType::reg;
        case S_IFDIR: return FileType::dir;
        case S_IFCHR: return FileType::chr;
        case S_IFBLK: return FileType::blk;
        case S_IFIFO: return FileType::fifo;
        case S_IFSOCK: return FileType::sock;
        case S_IFLNK: return FileType::lnk;
        default: return without_type;
    }
}

}  // namespace fdspan
