// Random work against a simple model: naive maps that know the truth. Whatever the order of things, the index with its records
// equals the model, bounded times contain the truth, and a reconcile repairs what was hidden from it.
#include "index_feed.hpp"

#include <fcntl.h>

#include <map>
#include <memory>
#include <random>
#include <set>

using namespace fdspan;
using namespace fdspan::test;
using namespace std::string_literals;

namespace {

struct ModelDescription {
    std::uint64_t id = 0;
    std::uint64_t ino = 0;  // the file: never the same
    std::uint64_t opened_ns = 0;
    bool seen = true;  // stamped by the kernel side
    int references = 0;
};
struct ModelSlot {
    std::shared_ptr<ModelDescription> description;
    std::uint64_t opened_ns = 0;
    bool seen = true;
    bool cloexec = false;
};
using ModelTable = std::map<std::int32_t, ModelSlot>;
struct ModelProcess {
    std::uint64_t started_ns = 0;
    std::map<pid_t, std::shared_ptr<ModelTable>> tasks;  // by tid, the leader's among them while it lives
};

class Storm {
public:
    explicit Storm(std::uint32_t seed) : random_(seed) {
        feed.quiet = true;
        feed.now_ns = 1'000'000'000;
        feed.fork(1, 10);
        ModelProcess& first = processes_[10];
        first.started_ns = feed.now_ns;
        first.tasks[10] = std::make_shared<ModelTable>();
        ids_ = 100;
    }

    Feed feed;

    void step() {
        feed.now_ns += random_() % 100'000;
        const pid_t pid = pick(processes_);
        ModelProcess& process = processes_[pid];
        const pid_t tid = pick(process.tasks);
        ModelTable& table = *process.tasks[tid];
        switch (random_() % 22) {
            case 0: case 1: case 2: case 3: case 4: open(pid, tid, table); break;
            case 5: case 6: dup(pid, tid, table); break;
            case 7: case 8: case 9: close(pid, tid, table); break;
            case 10: receive(pid, tid, table); break;
            case 11: case 12: fork(pid, tid, random_() % 4 == 0); break;
            case 13: thread(pid, tid, random_() % 3 != 0); break;
            case 14: exec(pid, tid); break;
            case 15: case 16: exit(pid, tid); break;
            case 17: unshare(pid, tid); break;
            case 18: if (hide_) hidden_open(table); break;
            case 19: if (hide_) hidden_close(table); break;
            case 20: overtaken_close(pid, tid, table); break;
            default: if (processes_.size() > 12) kill(pid); break;
        }
    }

    void hide(bool on) { hide_ = on; }

    // Rows as a snapshot joined with the kernel maps shows them, or as /proc does.
    Snapshot snapshot(bool procfs) {
        Snapshot out;
        feed.now_ns += 20'000'000;  // it rests
        out.began_ns = feed.now_ns;
        feed.now_ns += 100;
        out.ended_ns = feed.now_ns;
        for (const auto& [pid, process] : processes_) {
            Process from;
            from.pid = pid;
            from.started = procfs ? Interval::bounded(process.started_ns / 10'000'000 * 10'000'000, process.started_ns / 10'000'000 * 10'000'000 + 10'000'000)
                                  : Interval::exact(process.started_ns);
            from.comm = out.strings.intern("model");
            out.processes.push_back(from);
            for (const auto& [tid, table] : process.tasks) {
                if (tid != pid && table == main_table(process, pid)) continue;
                for (const auto& [fd, slot] : *table) {
                    Reference row;
                    row.process = static_cast<std::uint32_t>(out.processes.size() - 1);
                    row.tid = tid == pid || table == main_table(process, pid) ? 0 : tid;
                    row.fd = fd;
                    row.type = FileType::reg;
                    row.name = NameState::named;
                    row.valid = field_all;
                    row.path = PathId::whole(out.strings.intern(path(slot.description->ino)));
                    row.dev = {8, 1};
                    row.ino = slot.description->ino;
                    row.nlink = 1;
                    row.flags = slot.cloexec ? O_CLOEXEC : 0;
                    row.description_id = procfs ? 0 : slot.description->id;
                    row.opened = Interval::bounded(0, out.ended_ns);
                    row.description_opened = row.opened;
                    if (!procfs && slot.seen) row.opened = Interval::exact(slot.opened_ns);
                    if (!procfs && slot.description->seen) row.description_opened = Interval::exact(slot.description->opened_ns);
                    out.references.push_back(row);
                }
            }
        }
        return out;
    }

    // Every row of the model, with what the index knows about it; what differs comes out as text.
    std::vector<std::string> differences() {
        std::vector<std::string> out;
        std::map<std::tuple<pid_t, pid_t, std::int32_t>, const ModelSlot*> wanted;
        for (const auto& [pid, process] : processes_) {
            for (const auto& [tid, table] : process.tasks) {
                const bool own = tid != pid && table != main_table(process, pid);
                for (const auto& [fd, slot] : *table) wanted[{pid, own ? tid : 0, fd}] = &slot;
            }
        }
        feed.index.for_each([&](const IndexRow& row) {
            const auto key = std::tuple(row.process.pid, row.reference.tid, row.reference.fd);
            const std::string where = std::to_string(row.process.pid) + ":" + std::to_string(row.reference.tid) + "/" +
                                      std::to_string(row.reference.fd);
            const auto found = wanted.find(key);
            if (found == wanted.end()) {
                out.push_back("phantom " + where);
                return;
            }
            const ModelSlot& slot = *found->second;
            if (row.reference.ino != slot.description->ino) out.push_back("other file " + where);
            if (row.strings.get(row.reference.path.name) != path(slot.description->ino)) out.push_back("other path " + where);
            if (!row.reference.opened.contains(slot.opened_ns)) {
                out.push_back("opened " + Feed::text(row.reference.opened) + " not " + std::to_string(slot.opened_ns) + " " + where);
            }
            if (!row.reference.description_opened.contains(slot.description->opened_ns)) out.push_back("description time " + where);
            if (exact_ && slot.seen && !row.reference.opened.is_exact()) out.push_back("not exact " + where);
            wanted.erase(found);
        });
        for (const auto& [key, slot] : wanted) {
            out.push_back("gap " + std::to_string(std::get<0>(key)) + ":" + std::to_string(std::get<1>(key)) + "/" +
                          std::to_string(std::get<2>(key)));
        }
        if (const std::string broken = feed.index.check(); !broken.empty()) out.push_back("broken: " + broken);
        return out;
    }

    void expect_exact(bool on) { exact_ = on; }

private:
    template <class Map>
    typename Map::key_type pick(const Map& map) {
        auto at = map.begin();
        std::advance(at, static_cast<long>(random_() % map.size()));
        return at->first;
    }
    // The leader's table; when the leader has ended, the one that most of the rest share with it.
    static std::shared_ptr<ModelTable> main_table(const ModelProcess& process, pid_t pid) {
        const auto leader = process.tasks.find(pid);
        return leader != process.tasks.end() ? leader->second : process.tasks.begin()->second;
    }
    static std::string path(std::uint64_t ino) { return "/d" + std::to_string(ino % 7) + "/f" + std::to_string(ino); }
    static std::string names(std::uint64_t ino) { return "f" + std::to_string(ino) + '\0' + "d" + std::to_string(ino % 7) + '\0'; }

    std::int32_t free_fd(const ModelTable& table) {
        std::int32_t fd = random_() % 8 == 0 ? static_cast<std::int32_t>(random_() % 100) : 0;
        while (table.contains(fd)) ++fd;
        return fd;
    }
    std::shared_ptr<ModelDescription> describe(bool seen) {
        auto description = std::make_shared<ModelDescription>();
        // The kernel uses a struct file again, and with it the id, when it is free.
        if (!freed_.empty() && random_() % 2 == 0) {
            description->id = *freed_.begin();
            freed_.erase(freed_.begin());
        } else {
            description->id = ++ids_;
        }
        description->ino = ++inodes_;
        description->opened_ns = feed.now_ns;
        description->seen = seen;
        return description;
    }
    void put(ModelTable& table, std::int32_t fd, std::shared_ptr<ModelDescription> description, bool seen, bool cloexec) {
        ++description->references;
        table[fd] = {std::move(description), feed.now_ns, seen, cloexec};
    }
    // Returns whether it was the description's last descriptor.
    bool take(ModelTable& table, std::int32_t fd) {
        const auto description = table[fd].description;
        table.erase(fd);
        if (--description->references != 0) return false;
        freed_.insert(description->id);
        return true;
    }
    Opened news(const ModelDescription& description, std::uint16_t how, bool cloexec) {
        Opened what;
        what.id = description.id;
        what.how = how;
        what.ino = description.ino;
        what.names = names(description.ino);
        what.cloexec = cloexec;
        what.description_ns = description.seen ? description.opened_ns : 0;
        return what;
    }

    void open(pid_t pid, pid_t tid, ModelTable& table) {
        ++feed.now_ns;
        const std::int32_t fd = free_fd(table);
        const bool cloexec = random_() % 3 == 0;
        put(table, fd, describe(true), true, cloexec);
        feed.give(opened_record(feed.now_ns, pid, tid, fd, news(*table[fd].description, FDSPAN_HOW_OPEN, cloexec)));
    }
    void hidden_open(ModelTable& table) {
        ++feed.now_ns;
        put(table, free_fd(table), describe(false), false, false);
    }
    void hidden_close(ModelTable& table) {
        if (table.empty()) return;
        ++feed.now_ns;
        take(table, pick(table));
    }
    void dup(pid_t pid, pid_t tid, ModelTable& table) {
        if (table.empty()) return;
        const std::int32_t from = pick(table);
        const std::int32_t to = random_() % 2 == 0 ? pick(table) : free_fd(table);
        if (from == to) return;  // dup2 onto itself does nothing
        if (table.contains(to)) close_one(pid, tid, table, to);
        ++feed.now_ns;
        put(table, to, table[from].description, true, false);
        feed.give(opened_record(feed.now_ns, pid, tid, to, news(*table[to].description, FDSPAN_HOW_DUP, false)));
    }
    void receive(pid_t pid, pid_t tid, ModelTable& table) {
        const pid_t from = pick(processes_);
        ModelTable& source = *processes_[from].tasks.begin()->second;
        if (source.empty()) return;
        const auto description = source[pick(source)].description;
        ++feed.now_ns;
        const std::int32_t fd = free_fd(table);
        put(table, fd, description, true, true);
        feed.give(opened_record(feed.now_ns, pid, tid, fd, news(*description, FDSPAN_HOW_RECEIVED, true)));
    }
    void close_one(pid_t pid, pid_t tid, ModelTable& table, std::int32_t fd) {
        ++feed.now_ns;
        const ModelSlot slot = table[fd];
        const bool last = take(table, fd);
        feed.give(Feed::closed_record(FDSPAN_RECORD_CLOSED, feed.now_ns, pid, tid, fd, slot.description->id, last,
                                      slot.description->seen ? slot.description->opened_ns : 0));
    }
    void close(pid_t pid, pid_t tid, ModelTable& table) {
        if (!table.empty()) close_one(pid, tid, table, pick(table));
    }
    // Another thread closes before the open's own record is sent.
    void overtaken_close(pid_t pid, pid_t tid, ModelTable& table) {
        const std::int32_t fd = free_fd(table);
        const std::uint64_t opened_ns = ++feed.now_ns;
        const auto description = describe(true);
        put(table, fd, description, true, false);
        close_one(pid, tid, table, fd);
        feed.give(opened_record(opened_ns, pid, tid, fd, news(*description, FDSPAN_HOW_OPEN, false)));
    }
    std::shared_ptr<ModelTable> copy(const ModelTable& table) {
        auto out = std::make_shared<ModelTable>(table);
        for (auto& [fd, slot] : *out) {
            ++slot.description->references;
            slot.opened_ns = feed.now_ns;
            slot.seen = true;
        }
        return out;
    }
    void fork(pid_t pid, pid_t tid, bool share) {
        if (processes_.size() > 30) return;
        const pid_t child = ++pids_;
        feed.fork(static_cast<std::uint32_t>(pid), static_cast<std::uint32_t>(child), share, 0, static_cast<std::uint32_t>(tid));
        ModelProcess& process = processes_[child];
        process.started_ns = feed.now_ns;
        const auto table = processes_[pid].tasks[tid];
        process.tasks[child] = share ? table : copy(*table);
    }
    void thread(pid_t pid, pid_t tid, bool share) {
        ModelProcess& process = processes_[pid];
        if (process.tasks.size() > 6) return;
        const pid_t child = ++pids_;
        feed.fork(static_cast<std::uint32_t>(pid), static_cast<std::uint32_t>(pid), share, static_cast<std::uint32_t>(child),
                  static_cast<std::uint32_t>(tid));
        const auto table = process.tasks[tid];
        process.tasks[child] = share ? table : copy(*table);
    }
    // How many tasks of all processes use this table.
    std::size_t users(const std::shared_ptr<ModelTable>& table) const {
        std::size_t count = 0;
        for (const auto& [pid, process] : processes_) {
            for (const auto& [tid, used] : process.tasks) count += used == table ? 1 : 0;
        }
        return count;
    }
    static std::vector<std::int32_t> filled(const ModelTable& table) {
        std::vector<std::int32_t> out;
        for (const auto& [fd, slot] : table) out.push_back(fd);
        return out;
    }
    void clear(ModelTable& table) {
        while (!table.empty()) take(table, table.begin()->first);
    }
    void end_task(std::map<pid_t, std::shared_ptr<ModelTable>>& tasks, pid_t tid) {
        const auto table = tasks[tid];
        const bool dead = users(table) == 1;
        tasks.erase(tid);
        if (dead) clear(*table);
    }
    void unshare(pid_t pid, pid_t tid) {
        ModelProcess& process = processes_[pid];
        const auto table = process.tasks[tid];
        if (users(table) == 1) return;
        if (!process.tasks.contains(pid)) return;
        ++feed.now_ns;
        const auto own = copy(*table);
        process.tasks[tid] = own;
        // close_range(CLOSE_RANGE_UNSHARE) leaves some behind
        while (!own->empty() && random_() % 3 == 0) take(*own, pick(*own));
        --feed.now_ns;
        feed.unshare(static_cast<std::uint32_t>(pid), static_cast<std::uint32_t>(tid), filled(*own));
    }
    void exec(pid_t pid, pid_t tid) {
        ModelProcess& process = processes_[pid];
        std::vector<pid_t> others;
        for (const auto& [other, table] : process.tasks) {
            if (other != tid) others.push_back(other);
        }
        for (const pid_t other : others) end_task(process.tasks, other);
        auto table = process.tasks[tid];
        process.tasks.erase(tid);
        ++feed.now_ns;
        bool new_table = false;
        process.tasks[pid] = table;
        if (users(table) > 1) {
            new_table = true;
            table = copy(*table);
            process.tasks[pid] = table;
        }
        std::vector<std::int32_t> closing;
        for (const auto& [fd, slot] : *table) {
            if (slot.cloexec) closing.push_back(fd);
        }
        for (const std::int32_t fd : closing) take(*table, fd);
        --feed.now_ns;
        feed.exec(static_cast<std::uint32_t>(pid), filled(*table), new_table, static_cast<std::uint32_t>(tid));
    }
    void exit(pid_t pid, pid_t tid) {
        ModelProcess& process = processes_[pid];
        const auto table = process.tasks[tid];
        const bool group_dead = process.tasks.size() == 1;
        if (group_dead && processes_.size() == 1) return;
        // The model does not follow which table a process shows when its leader is gone and the rest disagree.
        if (tid == pid && !group_dead) return;
        const bool table_dead = users(table) == 1;
        feed.exit(static_cast<std::uint32_t>(pid), static_cast<std::uint32_t>(tid), group_dead, table_dead);
        end_task(process.tasks, tid);
        if (group_dead) processes_.erase(pid);
    }
    void kill(pid_t pid) {
        while (processes_.contains(pid) && processes_.size() > 1) exit(pid, std::prev(processes_[pid].tasks.end())->first);
    }

    std::mt19937 random_;
    std::map<pid_t, ModelProcess> processes_;
    std::set<std::uint64_t> freed_;
    std::uint64_t ids_ = 0;
    std::uint64_t inodes_ = 0;
    pid_t pids_ = 1000;
    bool hide_ = false;
    bool exact_ = true;
};

}  // namespace

TEST_CASE("after any work the index equals what the tables hold, exactly") {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        Storm storm(seed);
        for (int i = 0; i < 1500; ++i) {
            storm.step();
            if (i % 100 != 99) continue;
            INFO("seed " << seed << " step " << i);
            const auto differences = storm.differences();
            REQUIRE(differences == std::vector<std::string>{});
        }
    }
}

TEST_CASE("whatever was hidden, a snapshot joined with the maps makes the index equal and exact") {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        Storm storm(seed);
        storm.hide(true);
        for (int i = 0; i < 1500; ++i) {
            storm.step();
            if (i % 150 != 149) continue;
            const Snapshot snapshot = storm.snapshot(false);
            ReconcileOptions how;
            how.announce = i % 4 == 1;
            reconcile(storm.feed.index, snapshot, how, storm.feed.sink());
            INFO("seed " << seed << " step " << i);
            const auto differences = storm.differences();
            REQUIRE(differences == std::vector<std::string>{});
            const Verification found = verify(storm.feed.index, snapshot, how);
            REQUIRE(found.equal());
            REQUIRE(storm.feed.index.incomplete().empty());
        }
    }
}

TEST_CASE("polling alone keeps the index equal, and its intervals contain the truth") {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        Storm storm(seed);
        storm.hide(true);
        storm.expect_exact(false);
        Index polled;
        for (int i = 0; i < 1500; ++i) {
            storm.step();
            if (i % 150 != 149) continue;
            const Snapshot snapshot = storm.snapshot(true);
            reconcile(polled, snapshot, {}, {});
            INFO("seed " << seed << " step " << i);
            REQUIRE(polled.check() == "");
            REQUIRE(verify(polled, snapshot, {}).equal());
            REQUIRE(polled.counts().descriptors == snapshot.references.size());
            REQUIRE(polled.counts().processes == snapshot.processes.size());
        }
    }
}
