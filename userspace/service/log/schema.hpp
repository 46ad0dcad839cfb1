// The tables of the event log, and how a database of an older version becomes one of this.
#pragma once

#include <string>
#include <string_view>

#include "service/log/sqlite.hpp"

namespace fdspan::service {

// PRAGMA user_version. A database with a greater one was made by a newer fdspan: it is left alone.
inline constexpr std::int64_t schema_version = 3;
// PRAGMA application_id: "fdsp".
inline constexpr std::int64_t application_id = 0x66647370;

// What stands in name_grams for a name: its bounds are part of the text, and how many characters it has is one more of them, twice. In SQL
// it is name_text(NAME), on connections that were migrated.
[[nodiscard]] std::string name_text(std::string_view name);
// That character, for names of so many; and for those that are not UTF-8, of which nobody can say.
[[nodiscard]] std::string name_length_mark(std::size_t characters);
[[nodiscard]] std::string name_length_unknown();

// Brings the database from its version to `to`, each step in a transaction of its own.
Result<void> migrate(const Connection& connection, std::int64_t to = schema_version);

}  // namespace fdspan::service
