#include "service/log/sqlite.hpp"

namespace fdspan::service {
namespace {

tl::unexpected<Error> failure_of(sqlite3* connection, std::string_view what) {
    return fail(::sqlite3_errcode(connection) & 0xff, std::string(what) + ": " + ::sqlite3_errmsg(connection));
}

}  // namespace

Result<bool> Statement::step() {
    const int code = ::sqlite3_step(statement_.get());
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) {
        ::sqlite3_reset(statement_.get());
        return false;
    }
    tl::unexpected<Error> error = failure_of(::sqlite3_db_handle(statement_.get()), "the event log's database");
    error.value().code = code & 0xff;
    ::sqlite3_reset(statement_.get());
    return error;
}

Result<void> Statement::run() {
    auto stepped = step();
    if (!stepped) return tl::unexpected(stepped.error());
    ::sqlite3_reset(statement_.get());
    return {};
}

std::string_view Statement::text(int column) const {
    const auto* const bytes = reinterpret_cast<const char*>(::sqlite3_column_text(statement_.get(), column));
    if (bytes == nullptr) return {};
    return {bytes, static_cast<std::size_t>(::sqlite3_column_bytes(statement_.get(), column))};
}

Result<Connection> Connection::open(const std::string& path, int flags) {
    sqlite3* raw = nullptr;
    const int code = ::sqlite3_open_v2(path.c_str(), &raw, flags | SQLITE_OPEN_NOMUTEX, nullptr);
    Connection connection;
    connection.connection_.reset(raw);
    if (raw == nullptr) return fail(SQLITE_NOMEM, "open " + path + ": out of memory");
    if (code != SQLITE_OK) return connection.failure("open " + path);
    return connection;
}

Result<Statement> Connection::prepare(std::string_view sql) const {
    sqlite3_stmt* raw = nullptr;
    const int code = ::sqlite3_prepare_v2(get(), sql.data(), static_cast<int>(sql.size()), &raw, nullptr);
    Statement statement(raw);
    if (code != SQLITE_OK) return failure("the event log's database");
    return statement;
}

Result<void> Connection::execute(const std::string& sql) const {
    if (::sqlite3_exec(get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return failure("the event log's database");
    return {};
}

Result<std::int64_t> Connection::integer(std::string_view sql) const {
    auto statement = prepare(sql);
    if (!statement) return tl::unexpected(statement.error());
    auto row = statement->step();
    if (!row) return tl::unexpected(row.error());
    return *row ? statement->integer(0) : 0;
}

Result<std::string> Connection::text(std::string_view sql) const {
    auto statement = prepare(sql);
    if (!statement) return tl::unexpected(statement.error());
    auto row = statement->step();
    if (!row) return tl::unexpected(row.error());
    return *row ? std::string(statement->text(0)) : std::string();
}

tl::unexpected<Error> Connection::failure(std::string_view what) const { return failure_of(get(), what); }

}  // namespace fdspan::service
