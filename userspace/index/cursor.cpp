#include "index/cursor.hpp"

#include <algorithm>
#include <bit>

namespace fdspan {

IndexCursor IndexCursor::all(const Index& index) {
    IndexCursor cursor(index, Walk::processes);
    cursor.processes_.assign(index.by_pid_.begin(), index.by_pid_.end());
    std::sort(cursor.processes_.begin(), cursor.processes_.end());
    return cursor;
}

IndexCursor IndexCursor::of_process(const Index& index, pid_t pid) {
    IndexCursor cursor(index, Walk::processes);
    if (const std::uint32_t process = index.find_process(pid); process != Index::none) cursor.processes_.emplace_back(pid, process);
    return cursor;
}

IndexCursor IndexCursor::of_file(const Index& index, DeviceNumber dev, std::uint64_t ino) {
    IndexCursor cursor(index, Walk::file);
    cursor.dev_ = kernel_device(dev);
    cursor.key_ = ino;
    cursor.description_ = index.by_inode_.head(Index::file_hash(cursor.dev_, ino));
    return cursor;
}

IndexCursor IndexCursor::under(const Index& index, std::string_view path) {
    IndexCursor cursor(index, Walk::directory);
    while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
    std::string_view dir_text, name;
    if (!PathStore::split(path, dir_text, name)) return cursor;
    cursor.top_ = cursor.dir_ = index.paths_.find(path);
    if (cursor.dir_ != PathStore::none) cursor.description_ = index.paths_.node(cursor.dir_).first_description;
    // The thing itself stands in its directory's list; "/" stands in its own.
    if (path == "/") return cursor;
    cursor.name_ = name;
    if (const PathStore::Dir above = index.paths_.find(dir_text); above != PathStore::none) {
        cursor.above_ = index.paths_.node(above).first_description;
    }
    return cursor;
}

IndexCursor IndexCursor::deleted(const Index& index) { return {index, Walk::deleted}; }

IndexCursor IndexCursor::older_than(const Index& index, std::uint64_t boottime_ns) {
    IndexCursor cursor(index, Walk::older);
    cursor.key_ = boottime_ns;
    return cursor;
}

std::optional<IndexRow> IndexCursor::next() {
    const bool found = walk_ == Walk::processes ? next_of_process() : next_of_description();
    if (!found) return std::nullopt;
    return IndexRow{process_row_, row_, index_->scratch_};
}

void IndexCursor::show_slot(std::uint32_t process, pid_t tid, std::int32_t fd, const Index::SlotView& slot) {
    index_->scratch_.clear();
    process_row_ = {};
    row_ = {};
    index_->fill_process(index_->processes_[process], process_row_);
    index_->fill_slot_row(tid, fd, slot, row_);
}

void IndexCursor::show_held(const Index::Held& held) {
    index_->scratch_.clear();
    process_row_ = {};
    row_ = {};
    index_->fill_process(index_->processes_[held.process], process_row_);
    index_->fill_held_row(held, row_);
}

bool IndexCursor::next_of_process() {
    for (; process_ < processes_.size(); ++process_, table_ = 0, in_held_ = false) {
        const std::uint32_t number = processes_[process_].second;
        const Index::ProcessEntry& entry = index_->processes_[number];
        for (; !in_held_ && table_ <= entry.threads.size(); ++table_, page_ = 0) {
            const std::uint32_t table_number = table_ == 0 ? entry.table : entry.threads[table_ - 1].table;
            if (table_number == Index::none) continue;
            const pid_t tid = table_ == 0 ? 0 : entry.threads[table_ - 1].tid;
            const Index::Table& table = index_->tables_[table_number];
            for (; page_ < table.pages.size(); ++page_, entered_page_ = false) {
                const std::uint32_t place = table.pages[page_];
                if (place == Index::none) continue;
                const Index::Page& page = index_->pages_[place & ~Index::inherited_bit];
                if (!entered_page_) slots_ = page.mask;
                entered_page_ = true;
                if (slots_ == 0) continue;
                const auto fd = static_cast<std::int32_t>(page.first_fd + static_cast<unsigned>(std::countr_zero(slots_)));
                slots_ &= slots_ - 1;
                Index::SlotView view;
                if (!index_->slot(table_number, fd, view)) continue;
                show_slot(number, tid, fd, view);
                return true;
            }
        }
        if (!in_held_) held_ = entry.first_held;
        in_held_ = true;
        if (held_ != Index::none) {
            const Index::Held& held = index_->held_[held_];
            held_ = held.next_of_process;
            show_held(held);
            return true;
        }
    }
    return false;
}

bool IndexCursor::next_of_description() {
    while (true) {
        while (ref_ != Index::none) {
            if ((ref_ & Index::held_bit) != 0) {
                const Index::Held& held = index_->held_[ref_ & ~Index::held_bit];
                ref_ = index_->next_of(ref_);
                show_held(held);
                return true;
            }
            const Index::Page& page = index_->pages_[ref_ / Index::page_slots];
            const auto fd = static_cast<std::int32_t>(page.first_fd + ref_ % Index::page_slots);
            const std::size_t tables = page.users == 1 ? 1 : page.tables.size();
            for (; sharing_table_ < tables; ++sharing_table_, sharing_user_ = 0) {
                const std::uint32_t table = page.users == 1 ? page.sole_user : page.tables[sharing_table_];
                const std::vector<Index::TableUser>& users = index_->tables_[table].users;
                Index::SlotView view;
                if (sharing_user_ >= users.size() || !index_->slot(table, fd, view)) continue;
                const Index::TableUser user = users[sharing_user_++];
                show_slot(user.process, user.tid, fd, view);
                return true;
            }
            sharing_table_ = 0;
            ref_ = index_->next_of(ref_);
        }
        const std::uint32_t description = next_description();
        if (description == Index::none) return false;
        ref_ = index_->descriptions_[description].first_ref;
    }
}

std::uint32_t IndexCursor::next_description() {
    switch (walk_) {
        case Walk::processes: break;
        case Walk::file:
            while (description_ != Index::none) {
                const std::uint32_t number = description_;
                description_ = index_->descriptions_[number].next_by_inode;
                if (index_->descriptions_[number].ino == key_ && index_->extra_of(number).dev == dev_) return number;
            }
            break;
        case Walk::directory: return next_in_directory();
        case Walk::deleted:
        case Walk::older: return next_summarized();
    }
    return Index::none;
}

std::uint32_t IndexCursor::next_in_directory() {
    while (above_ != Index::none) {
        const std::uint32_t number = above_;
        above_ = index_->descriptions_[number].next_in_dir;
        if (index_->paths_.name(index_->descriptions_[number].path.name) == name_) return number;
    }
    // Depth first without recursion: paths may be deep.
    while (dir_ != PathStore::none) {
        if (description_ != Index::none) {
            const std::uint32_t number = description_;
            description_ = index_->descriptions_[number].next_in_dir;
            return number;
        }
        const PathStore& paths = index_->paths_;
        if (paths.node(dir_).first_child != PathStore::none) {
            dir_ = paths.node(dir_).first_child;
        } else {
            while (dir_ != top_ && paths.node(dir_).next_sibling == PathStore::none) dir_ = paths.node(dir_).parent;
            dir_ = dir_ == top_ ? PathStore::none : paths.node(dir_).next_sibling;
        }
        if (dir_ != PathStore::none) description_ = paths.node(dir_).first_description;
    }
    return Index::none;
}

std::uint32_t IndexCursor::next_summarized() {
    const bool deleted = walk_ == Walk::deleted;
    const auto worth = [&](const Index::Summary& summary) { return deleted ? summary.deleted != 0 : summary.opened_latest_ns <= key_; };
    while (description_ < index_->descriptions_.end() && description_ / 64 < index_->summaries_.size()) {
        const std::uint32_t number = description_;
        if (number % 64 == 0) {
            const std::size_t block = number / 64;
            if (block % 64 == 0 && !worth(index_->coarse_[block / 64])) {
                description_ += 4096;
                continue;
            }
            if (!worth(index_->summaries_[block])) {
                description_ += 64;
                continue;
            }
        }
        ++description_;
        if (number == Index::none || (index_->descriptions_[number].bits & Index::in_use) == 0) continue;
        if (deleted ? (index_->summaries_[number / 64].deleted >> (number % 64) & 1) != 0
                    : index_->times_.get(index_->descriptions_[number].opened).latest_ns <= key_) {
            return number;
        }
    }
    return Index::none;
}

}  // namespace fdspan
