#include "service/log/reader.hpp"

#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <queue>

#include "service/log/schema.hpp"

namespace fdspan::service {
namespace {

// A way with fewer rows than this is good enough, whatever the others have.
constexpr std::uint64_t estimate_cap = 20000;
// More directories than this are not even looked at.
constexpr std::size_t max_dirs_looked_at = 200000;
// Of what fts5 could be asked about a name, and of what it is.
constexpr std::size_t max_grams = 32;
constexpr std::size_t asked_terms = 3;
// Brackets are written out up to these bounds.
constexpr std::size_t max_choices = 10;
constexpr std::size_t max_variants = 32;

constexpr std::int64_t far_past = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t far_future = std::numeric_limits<std::int64_t>::max();

std::optional<Interval> moment(const Statement& row, int column) {
    const auto latest = row.optional_integer(column);
    if (!latest) return std::nullopt;
    const auto width = row.optional_integer(column + 1);
    const auto at = static_cast<std::uint64_t>(*latest);
    if (width && *width == 0) return Interval::exact(at);
    return Interval::bounded(width ? at - static_cast<std::uint64_t>(*width) : Interval::unknown_earliest, at);
}

std::optional<Interval> length(const Statement& row, int column) {
    const auto least = row.optional_integer(column);
    if (!least) return std::nullopt;
    const auto width = row.optional_integer(column + 1);
    const auto from = static_cast<std::uint64_t>(*least);
    if (width && *width == 0) return Interval::exact(from);
    return Interval::bounded(from, width ? from + static_cast<std::uint64_t>(*width) : std::numeric_limits<std::uint64_t>::max());
}

// The text before the first character that means something to fnmatch(3).
std::string literal_prefix(const std::string& glob) { return glob.substr(0, glob.find_first_of("*?[\\")); }

// The least text that is greater than all that begin with `prefix`; empty: there is none.
std::string after_prefix(std::string prefix) {
    while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
    if (!prefix.empty()) prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
    return prefix;
}

// What the last name of a matching path begins with, one of these: "" for anything.
std::vector<std::string> name_prefixes(const std::string& glob) {
    const std::size_t slash = glob.rfind('/');
    if (slash == std::string::npos || glob.find_first_of("[\\") != std::string::npos) return {""};
    const std::string last = glob.substr(slash + 1);
    if (last.find('*') != std::string::npos) return {""};
    std::vector<std::string> prefixes{literal_prefix(last)};
    // A question mark may stand for the slash before the name.
    for (std::size_t at = last.find('?'); at != std::string::npos; at = last.find('?', at + 1)) prefixes.push_back(literal_prefix(last.substr(at + 1)));
    if (std::find(prefixes.begin(), prefixes.end(), "") != prefixes.end()) return {""};
    return prefixes;
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

// As fnmatch(3), for patterns of literals, * and ?: that is too slow for a hundred thousand names.
bool simple_glob_matches(std::string_view glob, std::string_view path) {
    std::size_t at = 0, in_glob = 0, star = std::string_view::npos, star_at = 0;
    while (at < path.size()) {
        if (in_glob < glob.size() && glob[in_glob] == '*') {
            star = in_glob++;
            star_at = at;
        } else if (in_glob < glob.size() && glob[in_glob] == '?') {
            for (++at; at < path.size() && is_continuation(path[at]); ++at) {
            }
            ++in_glob;
        } else if (in_glob < glob.size() && glob[in_glob] == path[at]) {
            ++in_glob;
            ++at;
        } else if (star != std::string_view::npos) {
            in_glob = star + 1;
            at = ++star_at;
        } else {
            return false;
        }
    }
    while (in_glob < glob.size() && glob[in_glob] == '*') ++in_glob;
    return in_glob == glob.size();
}

bool glob_matches(const std::string& glob, const std::string& path) {
    if (glob.find_first_of("[\\") == std::string::npos) return simple_glob_matches(glob, path);
    return ::fnmatch(glob.c_str(), path.c_str(), 0) == 0;
}

// What fts5 is asked, one after the other: a name has all `terms` of one of them or, where nothing so long is known of it, some term that
// begins so.
struct NameQuestion {
    std::vector<std::string> terms;
    std::string beginning;
};

// A pattern taken apart. `one` is a question mark or brackets; of those that are a short list of characters, with its choices.
struct Token {
    enum class Kind { literal, one, many } kind;
    char byte = 0;
    std::string choices;
};

// Where the brackets that begin at `at` end; at the end of the pattern: nowhere, so that they are literal. Nothing: with what is in them,
// it is better not guessed.
std::optional<std::size_t> end_of_brackets(const std::string& glob, std::size_t at) {
    std::size_t end = at + 1;
    if (end < glob.size() && (glob[end] == '!' || glob[end] == '^')) ++end;
    for (bool first = true; end < glob.size(); ++end, first = false) {
        if (glob[end] == ']' && !first) return end;
        if (glob[end] == '\\' || (glob[end] == '[' && end + 1 < glob.size() && std::string_view(":=.").find(glob[end + 1]) != std::string_view::npos)) {
            return std::nullopt;
        }
    }
    return end;
}

std::optional<std::vector<Token>> tokens_of(const std::string& glob) {
    std::vector<Token> tokens;
    for (std::size_t at = 0; at < glob.size(); ++at) {
        Token token{Token::Kind::literal, glob[at], {}};
        if (glob[at] == '*') {
            token.kind = Token::Kind::many;
        } else if (glob[at] == '?') {
            token.kind = Token::Kind::one;
        } else if (glob[at] == '\\') {
            if (++at == glob.size()) return std::nullopt;
            token.byte = glob[at];
        } else if (glob[at] == '[') {
            const auto end = end_of_brackets(glob, at);
            if (!end) return std::nullopt;
            if (*end < glob.size()) {
                token.kind = Token::Kind::one;
                token.choices = glob.substr(at + 1, *end - at - 1);
                at = *end;
                const auto is_alphanumeric = [](char byte) { return (byte >= '0' && byte <= '9') || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'z'); };
                if (token.choices.size() > max_choices || !std::all_of(token.choices.begin(), token.choices.end(), is_alphanumeric)) token.choices.clear();
            }
        }
        tokens.push_back(std::move(token));
    }
    return tokens;
}

// The first bytes that are characters of UTF-8, one each; a byte that begins none ends it.
std::vector<std::string_view> characters_of(std::string_view text) {
    std::vector<std::string_view> characters;
    while (!text.empty()) {
        const auto first = static_cast<unsigned char>(text.front());
        const std::size_t bytes = first < 0x80 ? 1 : first < 0xc2 || first > 0xf4 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
        if (bytes == 0 || bytes > text.size() || !std::all_of(text.begin() + 1, text.begin() + bytes, is_continuation)) break;
        characters.push_back(text.substr(0, bytes));
        text.remove_prefix(bytes);
    }
    return characters;
}

// What else than ASCII a name has, fts5 knows of those alone that are UTF-8.
std::string unknown_term() {
    const std::string unknown = name_length_unknown();
    return "\"/" + unknown + unknown + "\"";
}

bool is_ascii(std::string_view text) {
    return std::none_of(text.begin(), text.end(), [](char byte) { return static_cast<unsigned char>(byte) >= 0x80; });
}

// Below the surrogates nothing is replaced by another character.
bool is_plain(std::string_view character) { return character.size() < 3 || (character.size() == 3 && character < "\xed\xa0\x80"); }

// Adds what stands in name_grams of a text: any three characters in a row.
void add_grams(NameQuestion& question, std::string_view text) {
    std::vector<std::string>& terms = question.terms;
    while (!text.empty()) {
        const std::vector<std::string_view> characters = characters_of(text);
        for (std::size_t at = 0; at < characters.size(); ++at) {
            if (at + 3 <= characters.size() && terms.size() < max_grams) {
                std::string term = "\"", gram;
                for (std::size_t next = at; next < at + 3; ++next) {
                    gram += characters[next];
                    term += characters[next] == "\"" ? "\"\"" : characters[next];
                }
                term += '"';
                if (!is_ascii(gram)) term = "(" + term + " OR " + unknown_term() + ")";
                if (std::find(terms.begin(), terms.end(), term) == terms.end()) terms.push_back(term);
            }
            // At least two characters follow in the text of a name, wherever this stands: it begins a term.
            std::string beginning;
            for (std::size_t next = at; next < std::min(at + 2, characters.size()) && is_plain(characters[next]); ++next) beginning += characters[next];
            if (beginning.size() > question.beginning.size()) question.beginning = beginning;
        }
        const std::size_t known = characters.empty() ? 0 : static_cast<std::size_t>(characters.back().data() + characters.back().size() - text.data());
        text.remove_prefix(std::min(known + 1, text.size()));
    }
}

// The question for names that begin (or not: after a star) and end (or not: before one) with these tokens, if there is one.
std::optional<NameQuestion> question_of(const std::vector<Token>& tokens, bool begins, bool ends) {
    NameQuestion question;
    std::string text(begins ? "/" : "");
    std::size_t characters = 0;
    bool counted = begins && ends;
    for (const Token& token : tokens) {
        if (token.kind == Token::Kind::literal) {
            text += token.byte;
            characters += is_continuation(token.byte) ? 0 : 1;
            continue;
        }
        add_grams(question, text);
        text.clear();
        ++characters;
        counted = counted && token.kind == Token::Kind::one;
    }
    if (ends) text += '/';
    add_grams(question, text);
    if (counted) {
        const std::string mark = name_length_mark(characters);
        question.terms.push_back("(\"/" + mark + mark + "\" OR " + unknown_term() + ")");
    }
    // A slash alone is in all of them.
    if (question.terms.empty() && (question.beginning.empty() || question.beginning == "/")) return std::nullopt;
    return question;
}

// What fts5 can be asked for the last names of the matching paths that lie in no directory of which everything matches. None: there are
// no such names. Nothing: it can't be asked for them.
std::optional<std::vector<NameQuestion>> name_questions(const std::string& glob) {
    auto tokens = tokens_of(glob);
    if (!tokens) return std::nullopt;
    const auto is_many = [](const Token& token) { return token.kind == Token::Kind::many; };
    const bool ends = tokens->empty() || !is_many(tokens->back());
    while (!tokens->empty() && is_many(tokens->back())) tokens->pop_back();
    const auto is_slash = [](const Token& token) { return token.kind == Token::Kind::literal && token.byte == '/'; };
    tokens->erase(tokens->begin(), std::find_if(tokens->rbegin(), tokens->rend(), is_slash).base());

    // Brackets with few choices: a pattern each, so that what is around them is known without a gap.
    std::vector<std::vector<Token>> variants{std::move(*tokens)};
    for (std::size_t at = 0; at < variants.front().size(); ++at) {
        const std::string choices = variants.front()[at].choices;
        if (choices.empty() || variants.size() * choices.size() > max_variants) continue;
        std::vector<std::vector<Token>> more;
        for (const std::vector<Token>& variant : variants) {
            for (const char choice : choices) {
                more.push_back(variant);
                more.back()[at] = {Token::Kind::literal, choice, {}};
            }
        }
        variants = std::move(more);
    }

    std::vector<NameQuestion> questions;
    for (const std::vector<Token>& variant : variants) {
        // The slash before the name is the last of the pattern, or what stands for it: its last star, a question mark or brackets after that.
        const auto star = std::find_if(variant.rbegin(), variant.rend(), is_many).base();
        for (auto at = star;; ++at) {
            const std::vector<Token> rest(at, variant.end());
            const bool after_star = at == star && star != variant.begin();
            // Of a directory that ends there, everything matches.
            if (ends || !rest.empty()) {
                auto question = question_of(rest, !after_star, ends);
                if (!question) return std::nullopt;
                const bool in_utf8_only = question->terms.empty() && !is_ascii(question->beginning);
                questions.push_back(std::move(*question));
                if (in_utf8_only) questions.push_back({{unknown_term()}, {}});
            }
            at = std::find_if(at, variant.end(), [](const Token& token) { return token.kind == Token::Kind::one; });
            if (at == variant.end()) break;
        }
    }
    return questions;
}

}  // namespace

LogReader::Way LogReader::by_time() { return {{"", {0}, "events_time"}}; }

Result<LogReader> LogReader::open(const std::string& path, const LogEffort& effort) {
    LogReader reader;
    // Asked before, so that one put in its place meanwhile is seen by is_current().
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0) {
        reader.device_ = status.st_dev;
        reader.inode_ = status.st_ino;
    }
    auto connection = Connection::open(path, SQLITE_OPEN_READONLY);
    if (!connection) return tl::unexpected(connection.error());
    reader.connection_ = std::move(*connection);
    reader.path_ = path;
    reader.effort_ = effort;
    ::sqlite3_busy_timeout(reader.connection_.get(), 2000);
    auto id = reader.connection_.integer("PRAGMA application_id");
    if (!id) return tl::unexpected(id.error());
    if (*id != application_id) return fail(SQLITE_NOTADB, path + " is not an event log of fdspan");
    auto version = reader.connection_.integer("PRAGMA user_version");
    if (!version) return tl::unexpected(version.error());
    if (*version != schema_version) {
        return fail(SQLITE_MISMATCH, path + " is an event log of version " + std::to_string(*version) + ", this fdspan reads version " +
                                         std::to_string(schema_version) + (*version < schema_version ? "; fdspand brings it up to date when it starts" : ""));
    }
    if (auto done = reader.connection_.execute("PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 1073741824;"
                                               "CREATE VIRTUAL TABLE temp.name_terms USING fts5vocab('main', 'name_grams', 'instance');"
                                               "PRAGMA query_only = 1");
        !done) {
        return tl::unexpected(done.error());
    }
    return reader;
}

bool LogReader::is_current() const {
    struct stat status {};
    return ::stat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_;
}

// The rows of one key, newest first, with what the filters look at: not more, so that an index may have all of it.
Result<Statement> LogReader::candidates(const Part& part, const LogQuery& query, bool newest_first) {
    std::string sql = "SELECT time_ns, id";
    const auto column = [&sql](const char* name, bool wanted) { sql += wanted ? std::string(", ") + name : ", NULL"; };
    column("pid", !query.pids.empty());
    column("path", !query.path_glob.empty() && !part.path_decided);
    column("deleted", query.deleted);
    column("duration_ns", query.min_duration_ns.has_value());
    column("bytes", query.min_bytes.has_value());
    column("ino", query.ino.has_value());
    sql += " FROM events";
    if (newest_first) {
        sql += " INDEXED BY " + part.index + " WHERE time_ns BETWEEN ?2 AND ?3" + part.condition + " ORDER BY time_ns DESC, id DESC";
    } else {
        sql += " WHERE id > ?1 AND time_ns BETWEEN ?2 AND ?3 ORDER BY id";
    }
    if (statements_.empty() || statements_.back() != sql) statements_.push_back(sql);
    auto statement = connection_.prepare(sql);
    if (!statement) return statement;
    statement->bind(2, query.since_ns.value_or(far_past));
    statement->bind(3, query.until_ns.value_or(far_future));
    return statement;
}

Result<LogReader::KnownPath> LogReader::look_at_path(std::int64_t path, const LogQuery& query) {
    if (memo_glob_ != query.path_glob) {
        path_memo_.clear();
        memo_glob_ = query.path_glob;
    }
    if (const auto known = path_memo_.find(path); known != path_memo_.end()) return known->second;
    if (!read_path_) {
        auto prepared = connection_.prepare("SELECT dirs.path, paths.name, dirs.id FROM paths JOIN dirs ON dirs.id = paths.dir WHERE paths.id = ?1");
        if (!prepared) return tl::unexpected(prepared.error());
        read_path_ = std::move(*prepared);
    }
    read_path_->bind(1, path);
    auto row = read_path_->step();
    if (!row) return tl::unexpected(row.error());
    KnownPath known{0, false};
    if (*row) {
        std::string text(read_path_->text(0));
        text += read_path_->text(1);
        known = {read_path_->integer(2), glob_matches(query.path_glob, text)};
    }
    read_path_->reset();
    path_memo_.emplace(path, known);
    return known;
}

Result<bool> LogReader::matches(Statement& row, const LogQuery& query, bool path_decided) {
    if (!query.pids.empty()) {
        const auto pid = row.optional_integer(2);
        if (!pid || std::find(query.pids.begin(), query.pids.end(), static_cast<pid_t>(*pid)) == query.pids.end()) return false;
    }
    if (query.deleted && row.integer(4) != 1) return false;
    if (query.min_duration_ns) {
        const auto duration = row.optional_integer(5);
        if (!duration || static_cast<std::uint64_t>(*duration) < *query.min_duration_ns) return false;
    }
    if (query.min_bytes) {
        const auto bytes = row.optional_integer(6);
        if (!bytes || static_cast<std::uint64_t>(*bytes) < *query.min_bytes) return false;
    }
    if (query.ino && static_cast<std::uint64_t>(row.optional_integer(7).value_or(0)) != *query.ino) return false;
    if (query.path_glob.empty() || path_decided) return true;
    const auto path = row.optional_integer(3);
    if (!path) return false;
    auto known = look_at_path(*path, query);
    if (!known) return tl::unexpected(known.error());
    return known->matched;
}

// fts5 walks through what it has of each term: a few rare ones tell enough. Ids count up, so the first so many of a rare one reach far.
Result<void> LogReader::leave_rarest(std::vector<std::string>& terms) {
    if (terms.size() <= asked_terms) return {};
    auto reach = connection_.prepare("SELECT rowid FROM name_grams WHERE name_grams MATCH ?1 LIMIT 1 OFFSET 200");
    if (!reach) return tl::unexpected(reach.error());
    std::vector<std::pair<std::int64_t, std::string>> ranked;
    for (const std::string& term : terms) {
        reach->bind(1, std::string_view(term));
        auto row = reach->step();
        if (!row) return tl::unexpected(row.error());
        ranked.emplace_back(*row ? reach->integer(0) : far_future, term);
        reach->reset();
    }
    std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    terms.clear();
    for (std::size_t at = 0; at < asked_terms; ++at) terms.push_back(ranked[at].second);
    return {};
}

// The names that match, as far as fts5 can be asked for them and there are not too many; without those in `whole_dirs`.
Result<std::optional<std::vector<std::int64_t>>> LogReader::names_by_text(const LogQuery& query, const std::vector<std::int64_t>& whole_dirs,
                                                                          std::size_t most) {
    std::vector<std::int64_t> found, matched;
    auto questions = name_questions(query.path_glob);
    if (!questions) return std::nullopt;
    auto names = connection_.prepare("SELECT rowid FROM name_grams WHERE name_grams MATCH ?1 LIMIT ?2");
    if (!names) return tl::unexpected(names.error());
    auto by_beginning = connection_.prepare("SELECT doc FROM name_terms WHERE term >= ?1 AND term < ?3 LIMIT ?2");
    if (!by_beginning) return tl::unexpected(by_beginning.error());
    for (NameQuestion& question : *questions) {
        Statement& asked = question.terms.empty() ? *by_beginning : *names;
        if (question.terms.empty()) {
            asked.bind(1, std::string_view(question.beginning));
            asked.bind(3, after_prefix(question.beginning));
        } else {
            if (auto done = leave_rarest(question.terms); !done) return tl::unexpected(done.error());
            std::string expression;
            for (const std::string& term : question.terms) expression += (expression.empty() ? "" : " AND ") + term;
            asked.bind(1, std::string_view(expression));
        }
        asked.bind(2, static_cast<std::int64_t>(most) + 1);
        while (true) {
            auto row = asked.step();
            if (!row) return tl::unexpected(row.error());
            if (!*row) break;
            found.push_back(asked.integer(0));
        }
        asked.reset();
        if (found.size() > most) return std::nullopt;
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    for (const std::int64_t id : found) {
        auto known = look_at_path(id, query);
        if (!known) return tl::unexpected(known.error());
        if (known->matched && !std::binary_search(whole_dirs.begin(), whole_dirs.end(), known->dir)) matched.push_back(id);
    }
    return matched;
}

// By the names that match, and the directories of which everything does; where those are too many, by all directories that may have some.
Result<std::optional<LogReader::Way>> LogReader::way_by_path(const LogQuery& query, const LogEffort::Bounds& bounds) {
    const std::string& glob = query.path_glob;
    const std::string prefix = literal_prefix(glob);
    const std::size_t slash = prefix.rfind('/');
    const std::string dir = prefix.substr(0, slash == std::string::npos ? 0 : slash + 1);
    const std::string name = prefix.substr(dir.size());
    // What has no wildcard is one name; otherwise names in this directory, and everything in those that begin with the prefix.
    const bool one_name = prefix == glob;
    const bool open_end = glob.ends_with('*');
    auto dirs = connection_.prepare(one_name ? "SELECT id, path FROM dirs WHERE path = ?1"
                                             : "SELECT id, path FROM dirs WHERE path = ?1 UNION SELECT id, path FROM dirs WHERE path >= ?2 AND (?3 = '' OR path < ?3)");
    if (!dirs) return tl::unexpected(dirs.error());
    dirs->bind(1, dir);
    if (!one_name) {
        dirs->bind(2, prefix);
        dirs->bind(3, after_prefix(prefix));
    }
    Part by_path{" AND path = ?1 AND path IS NOT NULL", {}, "events_path", true};
    Part by_whole_dir{" AND dir = ?1 AND dir IS NOT NULL", {}, "events_dir", true};
    Part by_dir{" AND dir = ?1 AND dir IS NOT NULL", {}, "events_dir", false};
    std::vector<std::string> dir_paths;  // of by_dir
    while (true) {
        auto row = dirs->step();
        if (!row) return tl::unexpected(row.error());
        if (!*row) break;
        const bool whole = open_end && glob_matches(glob, std::string(dirs->text(1)));
        (whole ? by_whole_dir : by_dir).keys.push_back(dirs->integer(0));
        if (!whole) dir_paths.emplace_back(dirs->text(1));
        if (by_dir.keys.size() + by_whole_dir.keys.size() > max_dirs_looked_at) return std::nullopt;
    }
    std::sort(by_whole_dir.keys.begin(), by_whole_dir.keys.end());

    std::optional<std::vector<std::int64_t>> matched;
    if (!one_name) {
        auto by_text = names_by_text(query, by_whole_dir.keys, bounds.names);
        if (!by_text) return tl::unexpected(by_text.error());
        matched = std::move(*by_text);
    }
    if (!matched) {
        auto names = connection_.prepare("SELECT id, name FROM paths WHERE dir = ?1 AND name >= ?2 AND (?3 = '' OR name < ?3)");
        if (!names) return tl::unexpected(names.error());
        const std::vector<std::string> prefixes = name_prefixes(glob);
        std::size_t looked_at = 0;
        std::string path;
        std::vector<std::int64_t> ids;
        for (std::size_t at = 0; at < dir_paths.size() && looked_at <= bounds.looked_at; ++at) {
            for (const std::string& first : dir_paths[at] == dir ? std::vector<std::string>{name} : prefixes) {
                names->bind(1, by_dir.keys[at]);
                names->bind(2, first);
                names->bind(3, one_name ? first + '\x01' : after_prefix(first));
                for (++looked_at; looked_at <= bounds.looked_at; ++looked_at) {
                    auto found = names->step();
                    if (!found) return tl::unexpected(found.error());
                    if (!*found) break;
                    path.assign(dir_paths[at]).append(names->text(1));
                    if (glob_matches(glob, path)) ids.push_back(names->integer(0));
                }
                names->reset();
            }
        }
        // A name may begin with two of the prefixes.
        std::sort(ids.begin(), ids.end());
        ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
        if (looked_at <= bounds.looked_at) matched = std::move(ids);
    }
    Way way;
    const auto add = [&way](Part part) {
        if (!part.keys.empty()) way.push_back(std::move(part));
    };
    if (matched && matched->size() <= bounds.names && by_whole_dir.keys.size() <= effort_.dirs) {
        by_path.keys = std::move(*matched);
        add(by_path);
        add(by_whole_dir);
        return way;
    }
    if (by_dir.keys.size() + by_whole_dir.keys.size() > effort_.dirs) return std::nullopt;
    add(by_whole_dir);
    add(by_dir);
    return way;
}

Result<std::uint64_t> LogReader::estimate(const Way& way, const LogQuery& query) {
    std::uint64_t total = 0;
    for (const Part& part : way) {
        auto count = connection_.prepare("SELECT count(*) FROM (SELECT 1 FROM events INDEXED BY " + part.index + " WHERE time_ns BETWEEN ?2 AND ?3" +
                                         part.condition + " LIMIT " + std::to_string(estimate_cap) + ")");
        if (!count) return tl::unexpected(count.error());
        for (const std::int64_t key : part.keys) {
            count->bind(1, key);
            count->bind(2, query.since_ns.value_or(far_past));
            count->bind(3, query.until_ns.value_or(far_future));
            auto row = count->step();
            if (!row) return tl::unexpected(row.error());
            total += static_cast<std::uint64_t>(count->integer(0));
            count->reset();
            if (total >= estimate_cap) return estimate_cap;
        }
    }
    return total;
}

// The way with the fewest rows, as far as counting is worth it; among those with very many, the one that leaves least to filter.
Result<LogReader::Way> LogReader::choose(const LogQuery& query, const LogEffort::Bounds& bounds) {
    std::vector<Way> ways;
    std::optional<Way> by_directories;
    const auto classes = [](const char* condition, const char* index, std::uint64_t least) {
        Part part{condition, {}, index};
        for (std::int64_t number = max_log_class; number >= log_class(least); --number) part.keys.push_back(number);
        return Way{part};
    };
    if (!query.path_glob.empty()) {
        auto way = way_by_path(query, bounds);
        if (!way) return tl::unexpected(way.error());
        if (*way) {
            // All that is in many directories is the last resort.
            const bool decided = std::all_of((*way)->begin(), (*way)->end(), [](const Part& part) { return part.path_decided; });
            if (decided) {
                ways.push_back(std::move(**way));
            } else {
                by_directories = std::move(**way);
            }
        }
    }
    if (!query.pids.empty()) {
        Part part{" AND pid = ?1 AND pid IS NOT NULL", {}, "events_pid"};
        for (const pid_t pid : query.pids) {
            if (std::find(part.keys.begin(), part.keys.end(), pid) == part.keys.end()) part.keys.push_back(pid);
        }
        ways.push_back({part});
    }
    if (query.min_bytes) ways.push_back(classes(" AND bytes_class = ?1 AND bytes_class IS NOT NULL", "events_bytes", *query.min_bytes));
    if (query.deleted) ways.push_back({{" AND deleted = 1", {0}, "events_deleted"}});
    if (query.min_duration_ns) {
        ways.push_back(classes(" AND duration_class = ?1 AND duration_class IS NOT NULL", "events_duration", *query.min_duration_ns));
    }
    if (by_directories) ways.push_back(std::move(*by_directories));
    if (ways.empty()) return by_time();
    if (ways.size() == 1) return std::move(ways.front());
    Way* best = &ways.front();
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (Way& way : ways) {
        auto count = estimate(way, query);
        if (!count) return tl::unexpected(count.error());
        if (*count >= least) continue;
        least = *count;
        best = &way;
    }
    return std::move(*best);
}

// One state of the database for what is read at once. No longer: while a state is being read, the write-ahead log only grows.
Result<void> LogReader::in_one_state(const std::function<Result<void>()>& read) {
    if (auto begun = connection_.execute("BEGIN"); !begun) return begun;
    // Retention may have given the number of a name to another one since.
    path_memo_.clear();
    auto done = read();
    if (auto ended = connection_.execute("COMMIT"); done && !ended) return ended;
    return done;
}

Result<void> LogReader::query(const LogQuery& query, const Visit& visit) {
    statements_.clear();
    Search search;
    std::uint64_t left = query.limit.value_or(std::numeric_limits<std::uint64_t>::max());
    std::vector<LogRow> piece;
    for (bool first = true; first || search.next < search.found.size() || search.in_order; first = false) {
        piece.clear();
        auto read = in_one_state([&]() -> Result<void> {
            auto found = first ? begin_search(query, search) : Result<void>();
            if (found && search.next == search.found.size() && search.in_order) found = find_more(query, search);
            return found ? read_found(search, piece) : found;
        });
        if (!read) return read;
        for (const LogRow& row : piece) {
            if (!visit(row) || --left == 0) return {};
        }
    }
    return {};
}

Result<void> LogReader::begin_search(const LogQuery& query, Search& search) {
    auto way = choose(query, effort_.at_first);
    if (!way) return tl::unexpected(way.error());
    const bool path_alone = !query.path_glob.empty() && query.pids.empty() && !query.deleted && !query.min_duration_ns && !query.min_bytes;
    const auto undecided = [](const Part& part) { return !part.path_decided; };
    if (path_alone && query.limit && std::any_of(way->begin(), way->end(), undecided)) {
        auto enough = probe(query, search.found);
        if (!enough) return tl::unexpected(enough.error());
        if (*enough) return {};
        search.found.clear();
        // Many names, of which most are long ago: they are worth finding now.
        way = choose(query, effort_.at_last);
        if (!way) return tl::unexpected(way.error());
    }
    if (way->size() == 1 && way->front().keys.size() == 1) {
        search.in_order = std::move(way->front());
        return {};
    }
    return find(*way, query, search.found);
}

Result<bool> LogReader::probe(const LogQuery& query, std::vector<Found>& found) {
    auto rows = candidates(by_time().front(), query, true);
    if (!rows) return tl::unexpected(rows.error());
    for (std::size_t looked_at = 0; looked_at < effort_.probed_rows; ++looked_at) {
        auto row = rows->step();
        if (!row) return tl::unexpected(row.error());
        if (!*row) return true;
        auto matched = matches(*rows, query, false);
        if (!matched) return tl::unexpected(matched.error());
        if (*matched) found.push_back({rows->integer(0), rows->integer(1)});
        if (found.size() >= *query.limit) return true;
    }
    return false;
}

Result<void> LogReader::find(const Way& way, const LogQuery& query, std::vector<Found>& found) {
    // The newest of all keys: a heap of what was found so far, the oldest of them on top, bounds what later keys have to look at.
    std::priority_queue<Found, std::vector<Found>, std::greater<>> newest;
    const std::uint64_t limit = query.limit.value_or(std::numeric_limits<std::uint64_t>::max());
    for (const Part& part : way) {
        auto rows = candidates(part, query, true);
        if (!rows) return tl::unexpected(rows.error());
        for (const std::int64_t key : part.keys) {
            if (part.condition.find("?1") != std::string::npos) rows->bind(1, key);
            if (newest.size() >= limit) rows->bind(2, std::max(query.since_ns.value_or(far_past), newest.top().time_ns));
            while (true) {
                auto row = rows->step();
                if (!row) return tl::unexpected(row.error());
                if (!*row) break;
                auto matched = matches(*rows, query, part.path_decided);
                if (!matched) return tl::unexpected(matched.error());
                if (!*matched) continue;
                const Found one{rows->integer(0), rows->integer(1)};
                if (newest.size() >= limit) {
                    if (one <= newest.top()) break;
                    newest.pop();
                }
                newest.push(one);
            }
            rows->reset();
        }
    }
    for (; !newest.empty(); newest.pop()) found.push_back(newest.top());
    std::reverse(found.begin(), found.end());
    return {};
}

// From where the last of them was found, among others of the same time.
Result<void> LogReader::find_more(const LogQuery& query, Search& search) {
    const Part& part = *search.in_order;
    auto rows = candidates(part, query, true);
    if (!rows) return tl::unexpected(rows.error());
    if (part.condition.find("?1") != std::string::npos) rows->bind(1, part.keys.front());
    std::optional<Found> last;
    if (!search.found.empty()) last = search.found.back();
    if (last) rows->bind(3, last->time_ns);
    search.found.clear();
    search.next = 0;
    const std::uint64_t most = std::min<std::uint64_t>(effort_.found_at_once, query.limit.value_or(effort_.found_at_once));
    while (search.found.size() < most) {
        auto row = rows->step();
        if (!row) return tl::unexpected(row.error());
        if (!*row) {
            search.in_order.reset();
            return {};
        }
        const Found found{rows->integer(0), rows->integer(1)};
        if (last && found >= *last) continue;
        auto matched = matches(*rows, query, part.path_decided);
        if (!matched) return tl::unexpected(matched.error());
        if (*matched) search.found.push_back(found);
    }
    return {};
}

Result<void> LogReader::read_found(Search& search, std::vector<LogRow>& piece) {
    for (; search.next < search.found.size() && piece.size() < effort_.read_at_once; ++search.next) {
        auto whole = read(search.found[search.next].id);
        if (!whole) return tl::unexpected(whole.error());
        // Retention may have taken it since it was found.
        if (*whole) piece.push_back(std::move(**whole));
    }
    return {};
}

Result<std::int64_t> LogReader::query_after(const LogQuery& query, std::int64_t id, const Visit& visit) {
    statements_.clear();
    std::vector<LogRow> piece;
    for (bool ended = false; !ended;) {
        piece.clear();
        auto read_piece = in_one_state([&]() -> Result<void> {
            auto rows = candidates({}, query, false);
            if (!rows) return tl::unexpected(rows.error());
            rows->bind(1, id);
            while (piece.size() < effort_.read_at_once) {
                auto row = rows->step();
                if (!row) return tl::unexpected(row.error());
                ended = !*row;
                if (ended) return {};
                id = rows->integer(1);
                auto matched = matches(*rows, query, false);
                if (!matched) return tl::unexpected(matched.error());
                if (!*matched) continue;
                auto whole = read(id);
                if (!whole) return tl::unexpected(whole.error());
                if (*whole) piece.push_back(std::move(**whole));
            }
            return {};
        });
        if (!read_piece) return tl::unexpected(read_piece.error());
        for (const LogRow& row : piece) {
            if (!visit(row)) return row.id;
        }
    }
    return id;
}

Result<std::optional<LogRow>> LogReader::read(std::int64_t id) {
    if (!read_row_) {
        const std::pair<std::optional<Statement>*, const char*> statements[] = {
            {&read_row_,
             "SELECT e.id, e.kind, e.time_ns, e.when_ns, e.when_width, e.pid, e.started_ns, e.started_width, e.uid, e.comm, e.container, e.ref, e.fd,"
             " e.type, e.type_name, e.name, e.deleted, e.dev_major, e.dev_minor, e.ino, dirs.path, paths.name, e.opened_ns, e.opened_width,"
             " e.description, e.description_ns, e.description_width, e.duration_ns, e.duration_width, e.held_ns, e.held_width, e.bytes, e.lost, e.added,"
             " e.ended, d.how, d.holders, d.by_pid, d.by_uid, d.by_comm, d.by_exe, d.by_cgroup, s.boot_id"
             " FROM events e JOIN segments s ON s.id = e.segment LEFT JOIN dirs ON dirs.id = e.dir LEFT JOIN paths ON paths.id = e.path"
             " LEFT JOIN deletions d ON d.event = e.id WHERE e.id = ?1"},
            {&read_holders_, "SELECT pid, ref, fd, comm FROM holders WHERE event = ?1 ORDER BY place"},
        };
        for (const auto& [statement, sql] : statements) {
            auto prepared = connection_.prepare(sql);
            if (!prepared) return tl::unexpected(prepared.error());
            *statement = std::move(*prepared);
        }
    }
    Statement& from = *read_row_;
    from.bind(1, id);
    auto there = from.step();
    if (!there) return tl::unexpected(there.error());
    if (!*there) return std::nullopt;
    LogRow row;
    row.id = id;
    const auto u64 = [&from](int column) { return static_cast<std::uint64_t>(from.integer(column)); };
    row.kind = kind_of_number(from.integer(1));
    row.time_ns = from.integer(2);
    row.when = moment(from, 3).value_or(Interval{});
    row.pid = static_cast<pid_t>(from.integer(5));
    row.process_started = moment(from, 6);
    row.uid = static_cast<uid_t>(from.integer(8));
    row.comm = from.text(9);
    row.container = from.text(10);
    if (const auto ref = from.optional_integer(11)) row.ref = static_cast<RefKind>(*ref);
    row.fd = static_cast<std::int32_t>(from.optional_integer(12).value_or(-1));
    row.type = static_cast<FileType>(from.integer(13));
    row.type_name = from.text(14);
    row.name = row.ref ? static_cast<NameState>(from.integer(15)) : NameState::unknown;
    row.deleted = from.integer(16) == 1;
    row.dev = {static_cast<std::uint32_t>(from.integer(17)), static_cast<std::uint32_t>(from.integer(18))};
    row.ino = u64(19);
    row.path = std::string(from.text(20)) + std::string(from.text(21));
    if (row.name == NameState::nameless && row.path.ends_with(':')) row.path += "[" + std::to_string(row.ino) + "]";
    row.opened = moment(from, 22);
    row.description_id = u64(24);
    row.description_opened = moment(from, 25);
    row.duration = length(from, 27);
    row.held_deleted = length(from, 29);
    if (const auto bytes = from.optional_integer(31)) row.bytes = static_cast<std::uint64_t>(*bytes);
    row.lost_records = u64(32);
    row.added = static_cast<std::uint32_t>(from.integer(33));
    row.ended = static_cast<std::uint32_t>(from.integer(34));
    row.how = static_cast<Removal>(from.integer(35));
    row.holder_count = static_cast<std::uint32_t>(from.integer(36));
    if (const auto by_pid = from.optional_integer(37)) {
        row.by = LogCulprit{static_cast<pid_t>(*by_pid), static_cast<uid_t>(from.integer(38)), std::string(from.text(39)), std::string(from.text(40)),
                            std::string(from.text(41))};
    }
    row.boot_id = from.text(42);
    from.reset();
    if (row.kind != EventKind::deleted) return row;
    read_holders_->bind(1, id);
    while (true) {
        auto holder = read_holders_->step();
        if (!holder) return tl::unexpected(holder.error());
        if (!*holder) return row;
        row.holders.push_back({static_cast<pid_t>(read_holders_->integer(0)), static_cast<std::int32_t>(read_holders_->integer(2)),
                               static_cast<RefKind>(read_holders_->integer(1)), std::string(read_holders_->text(3))});
    }
}

Result<std::uint64_t> LogReader::lost(std::optional<std::int64_t> since_ns, std::optional<std::int64_t> until_ns) {
    // A loss is a stretch of time, of which time_ns is the end; of one whose beginning is not known, all of the time before may be.
    auto sum = connection_.prepare("SELECT sum(lost) FROM events INDEXED BY events_lost WHERE lost IS NOT NULL AND time_ns >= ?1"
                                   " AND (when_width IS NULL OR time_ns - when_width <= ?2)");
    if (!sum) return tl::unexpected(sum.error());
    sum->bind(1, since_ns.value_or(far_past));
    sum->bind(2, until_ns.value_or(far_future));
    auto row = sum->step();
    if (!row) return tl::unexpected(row.error());
    return static_cast<std::uint64_t>(sum->integer(0));
}

Result<std::int64_t> LogReader::last_id() { return connection_.integer("SELECT max(id) FROM events"); }

Result<std::vector<std::string>> LogReader::explain() const {
    std::vector<std::string> plan;
    for (const std::string& sql : statements_) {
        auto rows = connection_.prepare("EXPLAIN QUERY PLAN " + sql);
        if (!rows) return tl::unexpected(rows.error());
        while (true) {
            auto row = rows->step();
            if (!row) return tl::unexpected(row.error());
            if (!*row) break;
            plan.emplace_back(rows->text(3));
        }
    }
    return plan;
}

}  // namespace fdspan::service
