#include "explain.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

#include "columns.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

bool is_plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("_@%+:,./-").find(c) != std::string_view::npos;
}

}  // namespace

std::string shell_quote(std::string_view word) {
    if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) return std::string(word);
    std::string bare(word);
    std::erase(bare, '\\');
    const bool printable = escape(bare) == bare;
    std::string quoted = printable ? "'" : "$'";
    for (const char c : word) {
        const auto byte = static_cast<unsigned char>(c);
        if (printable) {
            if (c == '\'') quoted += "'\\''";
            else quoted += c;
        } else if (c == '\'' || c == '\\') {
            quoted += '\\';
            quoted += c;
        } else if (byte >= 0x20 && byte < 0x7f) {
            quoted += c;
        } else {
            std::array<char, 8> octal{};
            std::snprintf(octal.data(), octal.size(), "\\%03o", byte);
            quoted += octal.data();
        }
    }
    return quoted + '\'';
}

void explain_held(std::string& out, std::string_view path, bool deleted, std::uint64_t allocated, const ExplainedHolder& holder, std::string_view dest) {
    const std::string link = shell_quote(holder.link);
    const std::string target = shell_quote(dest);
    std::string size;
    append_human(size, allocated);
    out += "# " + escape_path(path) + (deleted ? " (deleted)" : "") + ": " + size + " on disk, held by " + holder.what + ".\n";
    if (holder.pid == 0) {
        out += "# Copy what the device shows of it (all of the file, unless the device has an offset or a limit: losetup -l):\n";
        out += "cp --sparse=always -- " + link + ' ' + target + '\n';
        if (deleted) {
            out += "# Get its space back: unmount what is on the device, then give the file up.\n";
            out += "losetup -d " + link + '\n';
        }
        return;
    }
    const std::string copy = "cp --sparse=always --preserve=mode,ownership,timestamps,xattr -- " + link + ' ' + target;
    const std::string pid = std::to_string(holder.pid);
    out += "# Copy it out:\n" + copy + '\n';
    if (holder.descriptor) {
        out += "# The same, of one moment, while the process stands still:\n";
        out += "kill -STOP " + pid + "; " + copy + "; kill -CONT " + pid + '\n';
    }
    if (!deleted) return;
    if (holder.descriptor) {
        out += "# Get its space back without ending the process. This destroys the content, for every holder; one that maps the file dies of\n"
               "# SIGBUS, and one that writes without O_APPEND goes on behind a hole:\n";
        out += "truncate -s 0 -- " + link + '\n';
    } else {
        out += "# Its space comes back when the process is restarted; cutting what is mapped or run would kill it.\n";
    }
}

}  // namespace fdspan::cli
