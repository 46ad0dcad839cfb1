// The tables of the event log, and how a database of an older version becomes one of this.
#pragma once

#include "service/log/sqlite.hpp"

namespace fdspan::service {

// PRAGMA user_version. A database with a greater one was made by a newer fdspan: it is left alone.
inline constexpr std::int64_t schema_version = 2;
// PRAGMA application_id: "fdsp".
inline constexpr std::int64_t application_id = 0x66647370;

// Brings the database from its version to `to`, each step in a transaction of its own.
Result<void> migrate(const Connection& connection, std::int64_t to = schema_version);

}  // namespace fdspan::service
