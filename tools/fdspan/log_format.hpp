// How a row of the event log looks: in a table, as JSON, as CSV. The daemon's JSON file and the journal use the same JSON.
#pragma once

#include <string>

#include "columns.hpp"
#include "output.hpp"
#include "service/log/row.hpp"

namespace fdspan::cli {

// One object, without a newline, with the keys that `watch --json` has.
void append_log_json(std::string& out, const service::LogRow& row);

// RFC 4180, every text in quotes where it needs them; bytes that are not UTF-8 as in tables.
[[nodiscard]] std::string log_csv_heading();
void append_log_csv(std::string& out, const service::LogRow& row);

// TIME EVENT PID COMM FD TYPE NAME, and what is particular to the event.
void append_log_text(std::string& out, const service::LogRow& row, const Palette& color, UserNames& users);

}  // namespace fdspan::cli
