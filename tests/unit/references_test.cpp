#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <vector>

#include "snapshot/references.hpp"

using namespace fdspan;

namespace {

// A row of any kind, in which anything may be missing.
Reference random_row(std::mt19937& random, std::uint32_t process) {
    const auto some = [&] { return random() % 3 == 0; };
    Reference row;
    row.process = process;
    row.tid = static_cast<pid_t>(random() % 4);
    row.fd = static_cast<std::int32_t>(random() % 100) - 1;
    row.ref = static_cast<RefKind>(random() % 5);
    row.type = static_cast<FileType>(random() % 9);
    row.name = static_cast<NameState>(random() % 9);
    row.valid = static_cast<std::uint8_t>(random());
    row.mnt_id = static_cast<std::int32_t>(random() % 9) - 1;
    if (some()) row.type_name = random() % 1000;
    if (some()) row.path = {static_cast<StringId>(random() % 1000), static_cast<StringId>(random() % 1000)};
    if (some()) {
        const auto device = [&] { return DeviceNumber{static_cast<std::uint32_t>(random() % 4096), static_cast<std::uint32_t>(random() % (1U << 20))}; };
        row.dev = device();
        row.rdev = device();
        row.nlink = random();
        row.ino = random();
        row.size = random();
        row.allocated = random();
    }
    if (some()) {
        row.flags = random();
        row.pos = random();
        row.map_end = random();
        row.map_flags = random();
    }
    if (some()) {
        row.opened = Interval::bounded(random() % 1000, 1000 + random());
        row.description_opened = some() ? Interval::exact(random()) : Interval{};
    }
    if (some()) row.description_id = random();
    return row;
}

Reference moved(Reference row, StringId shift) {
    row.type_name = StringTable::moved(row.type_name, shift);
    row.path = StringTable::moved(row.path, shift);
    return row;
}

void check_same(const References& rows, const std::vector<Reference>& model) {
    REQUIRE(rows.size() == model.size());
    CHECK(rows.empty() == model.empty());
    std::size_t differing = 0;
    for (std::size_t at = 0; at < model.size(); ++at) {
        differing += rows[at] == model[at] ? 0 : 1;
        differing += rows.process_of(at) == model[at].process ? 0 : 1;
    }
    std::size_t at = 0;
    for (const Reference& row : rows) differing += row == model[at++] ? 0 : 1;
    CHECK(at == model.size());
    CHECK(differing == 0);
}

}  // namespace

TEST_CASE("packed rows are the rows that were put in") {
    for (unsigned seed = 1; seed <= 50; ++seed) {
        INFO("seed " << seed);
        std::mt19937 random(seed);
        References rows;
        std::vector<Reference> model;
        const auto add = [&](References& to, std::vector<Reference>& same, std::size_t count, StringId shift) {
            for (std::size_t i = 0; i < count; ++i) {
                const Reference row = random_row(random, random() % 7);
                to.push_back(row);
                same.push_back(moved(row, shift));
            }
        };
        if (random() % 2 == 0) rows.expect(100);
        for (int step = 0; step < 6; ++step) {
            add(rows, model, random() % 40, 0);
            const StringId shift = (1 + random() % 9) << 14;
            References more;
            add(more, model, random() % 40, shift);
            rows.append(std::move(more), shift);
            check_same(rows, model);
        }
        add(rows, model, 5, 0);
        rows.pop_back(3);
        model.resize(model.size() - 3);
        for (std::size_t at = 0; at < model.size(); at += 3) {
            Reference& row = model[at];
            row.process = static_cast<std::uint32_t>(at % 5);
            row.opened.narrow(Interval::exact(500));
            row.description_id = at;
            rows.set_process(at, row.process);
            rows.set_times(at, row.opened, row.description_opened, row.description_id);
        }
        check_same(rows, model);
        const auto drop = [](const Reference& row) { return row.fd % 4 == 0 || row.process == 2; };
        rows.erase_if(drop);
        std::erase_if(model, drop);
        check_same(rows, model);
        rows.group_by_process();
        std::stable_sort(model.begin(), model.end(), [](const Reference& a, const Reference& b) { return a.process < b.process; });
        check_same(rows, model);
        CHECK(rows.front() == model.front());
        CHECK(rows.back() == model.back());
        rows.set_times(model.size() / 2, Interval::exact(7), Interval::exact(6), 5);
        CHECK(rows[model.size() / 2].opened == Interval::exact(7));
    }
}

TEST_CASE("rows of nothing can be grouped, too") {
    References rows;
    rows.group_by_process();
    CHECK(rows.empty());
    rows.append(References(), 1U << 14);
    rows.push_back({});
    CHECK(rows.size() == 1);
    CHECK(rows[0] == Reference());
}
