// IndexCursor: the rows of one query, one at a time, without a copy of them. Borrows the index, which must not change while
// the cursor is used. Takes memory only for the list of processes (IndexCursor::all). Not thread-safe.
#pragma once

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "index/index.hpp"

namespace fdspan {

class IndexCursor {
public:
    // The same rows as Index::for_each… of that name.
    static IndexCursor all(const Index& index);
    static IndexCursor of_process(const Index& index, pid_t pid);
    static IndexCursor of_file(const Index& index, DeviceNumber dev, std::uint64_t ino);
    static IndexCursor under(const Index& index, std::string_view path);
    static IndexCursor deleted(const Index& index);
    static IndexCursor older_than(const Index& index, std::uint64_t boottime_ns);

    // nullopt at the end. The row is valid until the index is used again, by another cursor too.
    [[nodiscard]] std::optional<IndexRow> next();

private:
    enum class Walk : std::uint8_t { processes, file, directory, deleted, older };

    IndexCursor(const Index& index, Walk walk) : index_(&index), walk_(walk) {}

    [[nodiscard]] bool next_of_process();
    [[nodiscard]] bool next_of_description();
    [[nodiscard]] std::uint32_t next_description();
    [[nodiscard]] std::uint32_t next_in_directory();
    [[nodiscard]] std::uint32_t next_summarized();
    void show_slot(std::uint32_t process, pid_t tid, std::int32_t fd, const Index::SlotView& slot);
    void show_held(const Index::Held& held);

    const Index* index_;
    Walk walk_;

    // Walk::processes: the process at hand, its table at hand (0: its own, i: of its thread i - 1), the page and the slots left in it.
    std::vector<std::pair<pid_t, std::uint32_t>> processes_;
    std::size_t process_ = 0;
    std::size_t table_ = 0;
    std::size_t page_ = 0;
    unsigned slots_ = 0;
    bool entered_page_ = false;
    bool in_held_ = false;
    std::uint32_t held_ = 0;

    // The others: the description at hand, the reference to it, and who shares that slot.
    Index::RefId ref_ = 0;
    std::size_t sharing_table_ = 0;
    std::size_t sharing_user_ = 0;
    std::uint32_t description_ = 0;      // the next one to look at
    std::uint64_t key_ = 0;              // file: the inode; older: the time
    std::uint32_t dev_ = 0;
    PathStore::Dir top_ = PathStore::none, dir_ = PathStore::none;
    std::uint32_t above_ = 0;            // directory: the next description in the directory that holds the path
    std::string name_;

    Process process_row_;
    Reference row_;
};

}  // namespace fdspan
