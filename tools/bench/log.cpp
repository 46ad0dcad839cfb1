// Figures for fdspan log: makes an event log of so many rows, asks it each kind of question, and shows how long the newest 100 rows took and
// through which index. Times are of the processor (what an idle machine that has the file in memory takes), the best of three, and beside
// it the elapsed time of that round. Exit code 1 when one takes longer than 100 ms or scans the events.
//   fdspan-bench-log ROWS FILE       FILE is made; one that is there is asked as it is
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "service/log/reader.hpp"
#include "service/log/schema.hpp"

using namespace fdspan;
using namespace fdspan::service;

namespace {

constexpr std::int64_t first_time_ns = 1'700'000'000'000'000'000;
constexpr std::int64_t step_ns = 50'000'000;

double clock_ms(clockid_t clock) {
    timespec at{};
    ::clock_gettime(clock, &at);
    return static_cast<double>(at.tv_sec) * 1e3 + static_cast<double>(at.tv_nsec) / 1e6;
}

[[noreturn]] void stop(const Error& error) {
    std::fprintf(stderr, "%s\n", error.message.c_str());
    std::exit(2);
}

// 2000 directories and a fifth as many names as rows; /srv/backup is in the oldest twentieth only; some processes do most of it.
void make(const std::string& path, std::int64_t rows) {
    auto opened = Connection::open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    if (!opened) stop(opened.error());
    const Connection& log = *opened;
    const auto run = [&log](const std::string& sql) {
        if (auto done = log.execute(sql); !done) stop(done.error());
    };
    run("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -400000");
    if (auto done = migrate(log); !done) stop(done.error());
    // Indexes afterwards: sorted instead of one by one.
    std::vector<std::string> indexes;
    auto list = log.prepare("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events' AND sql IS NOT NULL");
    while (list->step().value()) indexes.emplace_back(list->text(0));
    auto names = log.prepare("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events' AND sql IS NOT NULL");
    std::string drop;
    while (names->step().value()) drop += "DROP INDEX " + std::string(names->text(0)) + ";";
    run(drop);
    const std::string count = std::to_string(rows), names_count = std::to_string(std::max<std::int64_t>(rows / 5, 100));
    run("BEGIN");
    run("INSERT INTO segments VALUES(1, 'bench', 1, 0, " + std::to_string(first_time_ns) + ")");
    run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO dirs SELECT i, CASE WHEN i = 1 THEN '/tmp/' WHEN i = 2 THEN "
        "'/var/log/' WHEN i <= 100 THEN '/srv/backup/' || i || '/' WHEN i < 1000 THEN '/home/u' || (i % 50) || '/d' || i || '/' ELSE '/var/lib/app' || i || '/' END FROM n");
    run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < " + names_count +
        ") INSERT INTO paths SELECT i, CASE WHEN i % 3 = 0 THEN 1 ELSE 1 + i % 2000 END, 'job-' || (i * 7919 % " + names_count +
        ") || CASE WHEN i % 50021 = 7 THEN '.rare' WHEN i % 2 THEN '.log' ELSE '' END FROM n");
    run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < " + count + "), r(i, h, p) AS (SELECT i, abs(random()), 1 + abs(random()) % " + names_count +
        " FROM n), e(i, h, p, d) AS (SELECT i, h, paths.id, paths.dir FROM r JOIN paths ON paths.id = CASE WHEN r.i > " + count +
        " / 20 AND p % 2000 BETWEEN 2 AND 99 THEN 1 ELSE p END)"
        "INSERT INTO events SELECT i, 1, CASE WHEN h % 100 = 0 THEN 3 ELSE 1 END, " + std::to_string(first_time_ns) + " + i * " + std::to_string(step_ns) + ", i * " +
        std::to_string(step_ns) + ", 0, CASE WHEN h % 3 = 0 THEN 812 ELSE 1000 + h % 5000 END, 1, 0, 0, 'worker', NULL, 0, 3, 1, NULL, 0, CASE WHEN h % 100 = 0 THEN 1 END,"
        "254, 0, p, d, p, i, 0, h, i, 0, 80 + (h % 80), 1000000000 + (h >> 20) % 100000000000, 0, NULL, NULL,"
        "CASE WHEN h % 20 = 0 THEN 40 + h % 60 END, CASE WHEN h % 20 = 0 THEN 1024 * (1 + h % 1000000) END, CASE WHEN h % 100003 = 0 THEN 5 END, NULL, NULL FROM e");
    // The classes belong to their values.
    auto rows_with = log.prepare("SELECT id, duration_ns, bytes FROM events");
    auto set = log.prepare("UPDATE events SET duration_class = ?2, bytes_class = ?3 WHERE id = ?1");
    if (!rows_with || !set) stop(set.error());
    while (rows_with->step().value()) {
        set->bind(1, rows_with->integer(0));
        set->bind(2, log_class(static_cast<std::uint64_t>(rows_with->integer(1))));
        const auto bytes = rows_with->optional_integer(2);
        set->bind(3, bytes ? std::optional(log_class(static_cast<std::uint64_t>(*bytes))) : std::nullopt);
        if (auto done = set->run(); !done) stop(done.error());
    }
    for (const std::string& sql : indexes) run(sql);
    run("INSERT INTO name_grams(rowid, name) SELECT id, name_text(name) FROM paths");
    run("COMMIT");
    run("PRAGMA journal_mode = WAL");
}

}  // namespace

int main(int count, char** values) {
    if (count != 3) {
        std::fprintf(stderr, "usage: fdspan-bench-log ROWS FILE\n");
        return 2;
    }
    const std::int64_t rows = std::atoll(values[1]);
    struct stat status {};
    if (::stat(values[2], &status) != 0) make(values[2], rows);
    auto reader = LogReader::open(values[2]);
    if (!reader) stop(reader.error());
    const std::int64_t end_ns = first_time_ns + rows * step_ns;
    struct Question {
        const char* name;
        LogQuery query;
    };
    std::vector<Question> questions;
    const auto ask = [&questions](const char* name, auto&& fill) {
        LogQuery query;
        query.limit = 100;
        fill(query);
        questions.push_back({name, query});
    };
    ask("newest", [](LogQuery&) {});
    ask("--since (the last hundredth)", [&](LogQuery& q) { q.since_ns = end_ns - rows / 100 * step_ns; });
    ask("--until (the first hundredth)", [&](LogQuery& q) { q.until_ns = first_time_ns + rows / 100 * step_ns; });
    ask("--path /var/log/job-1.log", [](LogQuery& q) { q.path_glob = "/var/log/job-1.log"; });
    ask("--path '/var/log/*'", [](LogQuery& q) { q.path_glob = "/var/log/*"; });
    ask("--path '/srv/backup/*' (long ago)", [](LogQuery& q) { q.path_glob = "/srv/backup/*"; });
    ask("--path '/tmp/job-12*'", [](LogQuery& q) { q.path_glob = "/tmp/job-12*"; });
    ask("--path '/home/*/job-7?.log'", [](LogQuery& q) { q.path_glob = "/home/*/job-7?.log"; });
    ask("--path '*.log' (half of all)", [](LogQuery& q) { q.path_glob = "*.log"; });
    ask("--path '*.rare' (one name in 50,000)", [](LogQuery& q) { q.path_glob = "*.rare"; });
    ask("--path '*.o' (none)", [](LogQuery& q) { q.path_glob = "*.o"; });
    ask("--path '*~' (none)", [](LogQuery& q) { q.path_glob = "*~"; });
    ask("--path '*e' (one name in 50,000)", [](LogQuery& q) { q.path_glob = "*e"; });
    ask("--path '*g' (half of all)", [](LogQuery& q) { q.path_glob = "*g"; });
    ask("--path '*x*' (none)", [](LogQuery& q) { q.path_glob = "*x*"; });
    ask("--path '*e*' (most)", [](LogQuery& q) { q.path_glob = "*e*"; });
    ask("--path '*ra*' (one name in 50,000)", [](LogQuery& q) { q.path_glob = "*ra*"; });
    ask("--path '*77*' (a twentieth)", [](LogQuery& q) { q.path_glob = "*77*"; });
    ask("--path '*\u00fc*' (none)", [](LogQuery& q) { q.path_glob = "*\u00fc*"; });
    ask("--path '*/job-[12]*'", [](LogQuery& q) { q.path_glob = "*/job-[12]*"; });
    ask("--path '*/job-[xy]*' (none)", [](LogQuery& q) { q.path_glob = "*/job-[xy]*"; });
    ask("--path '/tmp/job-[12]999?.log'", [](LogQuery& q) { q.path_glob = "/tmp/job-[12]999?.log"; });
    ask("--path '*.rar[a-f]'", [](LogQuery& q) { q.path_glob = "*.rar[a-f]"; });
    ask("--path '*[!a-z]12345.log'", [](LogQuery& q) { q.path_glob = "*[!a-z]12345.log"; });
    ask("--deleted --path '*x*' (none)", [](LogQuery& q) { q.deleted = true; q.path_glob = "*x*"; });
    ask("--deleted --path '*ra*'", [](LogQuery& q) { q.deleted = true; q.path_glob = "*ra*"; });
    ask("--path '/tmp/*12345*'", [](LogQuery& q) { q.path_glob = "/tmp/*12345*"; });
    ask("--path '*/d77/*'", [](LogQuery& q) { q.path_glob = "*/d77/*"; });
    ask("--path '*backup*' (long ago)", [](LogQuery& q) { q.path_glob = "*backup*"; });
    ask("--path '/nowhere/*'", [](LogQuery& q) { q.path_glob = "/nowhere/*"; });
    ask("--pid 812 (a third)", [](LogQuery& q) { q.pids = {812}; });
    ask("--pid 1234", [](LogQuery& q) { q.pids = {1234}; });
    ask("--pid 1 (none)", [](LogQuery& q) { q.pids = {1}; });
    ask("--deleted", [](LogQuery& q) { q.deleted = true; });
    ask("--min-duration 1s (all)", [](LogQuery& q) { q.min_duration_ns = 1'000'000'000; });
    ask("--min-duration 90s", [](LogQuery& q) { q.min_duration_ns = 90'000'000'000; });
    ask("--min-duration 1d (none)", [](LogQuery& q) { q.min_duration_ns = 86'400'000'000'000; });
    ask("--min-bytes 1", [](LogQuery& q) { q.min_bytes = 1; });
    ask("--min-bytes 1020000000", [](LogQuery& q) { q.min_bytes = 1'020'000'000; });
    ask("--deleted --path '/srv/backup/*'", [](LogQuery& q) { q.deleted = true; q.path_glob = "/srv/backup/*"; });
    ask("--deleted --path '*.log'", [](LogQuery& q) { q.deleted = true; q.path_glob = "*.log"; });
    ask("--deleted --path '/home/*/job-7?.log'", [](LogQuery& q) { q.deleted = true; q.path_glob = "/home/*/job-7?.log"; });
    ask("--pid 812 --path '/var/log/*'", [](LogQuery& q) { q.pids = {812}; q.path_glob = "/var/log/*"; });
    ask("--pid 1234 --deleted", [](LogQuery& q) { q.pids = {1234}; q.deleted = true; });
    ask("--min-bytes 1G --since", [&](LogQuery& q) { q.min_bytes = 1'000'000'000; q.since_ns = end_ns - rows / 10 * step_ns; });
    bool good = true;
    for (const Question& question : questions) {
        double best_ms = 1e9, elapsed_ms = 0;
        std::size_t found = 0;
        for (int round = 0; round < 3; ++round) {
            found = 0;
            const double began_ms = clock_ms(CLOCK_MONOTONIC), began_cpu_ms = clock_ms(CLOCK_PROCESS_CPUTIME_ID);
            auto done = reader->query(question.query, [&found](const LogRow&) { return ++found, true; });
            if (!done) stop(done.error());
            const double took_ms = clock_ms(CLOCK_PROCESS_CPUTIME_ID) - began_cpu_ms;
            if (took_ms >= best_ms) continue;
            best_ms = took_ms;
            elapsed_ms = clock_ms(CLOCK_MONOTONIC) - began_ms;
        }
        const auto plan = reader->explain();
        if (!plan) stop(plan.error());
        const bool searched = std::all_of(plan->begin(), plan->end(), [](const std::string& step) { return step.starts_with("SEARCH events USING"); });
        good = good && searched && best_ms < 100;
        std::printf("%8.2f ms (%8.2f) %4zu rows  %-36s %s%s\n", best_ms, elapsed_ms, found, question.name, plan->empty() ? "no such name" : plan->back().c_str(), searched && best_ms < 100 ? "" : "   <-- NOT GOOD");
    }
    return good ? 0 : 1;
}
