// SQLite, as much as the event log needs of it: a connection and statements that close themselves, errors as Result.
// One thread at a time per connection.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace fdspan::service {

// Error::code of everything here is SQLite's primary result code (SQLITE_FULL, …), not an errno.
class Statement {
public:
    Statement() = default;

    // Places count from 1; a value is copied.
    void bind(int place, std::int64_t value) { ::sqlite3_bind_int64(statement_.get(), place, value); }
    void bind(int place, std::optional<std::int64_t> value) {
        if (value) {
            bind(place, *value);
        } else {
            ::sqlite3_bind_null(statement_.get(), place);
        }
    }
    void bind(int place, std::string_view text) {
        // A null pointer would bind NULL.
        const char* const bytes = text.empty() ? "" : text.data();
        ::sqlite3_bind_text64(statement_.get(), place, bytes, text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    }

    // True: there is a row to read. After false or an error the statement is ready to be bound again.
    Result<bool> step();
    // For statements without rows.
    Result<void> run();
    void reset() { ::sqlite3_reset(statement_.get()); }

    [[nodiscard]] std::int64_t integer(int column) const { return ::sqlite3_column_int64(statement_.get(), column); }
    [[nodiscard]] std::optional<std::int64_t> optional_integer(int column) const {
        if (::sqlite3_column_type(statement_.get(), column) == SQLITE_NULL) return std::nullopt;
        return integer(column);
    }
    // Valid until the next step.
    [[nodiscard]] std::string_view text(int column) const;

private:
    friend class Connection;
    struct Finalize {
        void operator()(sqlite3_stmt* statement) const { ::sqlite3_finalize(statement); }
    };
    explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
    std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

class Connection {
public:
    // `flags` as for sqlite3_open_v2. A file that is not a database is found out by the first statement.
    static Result<Connection> open(const std::string& path, int flags);

    Result<Statement> prepare(std::string_view sql) const;
    Result<void> execute(const std::string& sql) const;
    // The first column of the first row of what has one.
    Result<std::int64_t> integer(std::string_view sql) const;
    Result<std::string> text(std::string_view sql) const;

    [[nodiscard]] sqlite3* get() const { return connection_.get(); }
    [[nodiscard]] bool is_open() const { return connection_ != nullptr; }
    void close() { connection_.reset(); }
    // What SQLite has to say about its last failure, as an Error.
    [[nodiscard]] tl::unexpected<Error> failure(std::string_view what) const;

private:
    struct Close {
        void operator()(sqlite3* connection) const { ::sqlite3_close_v2(connection); }
    };
    std::unique_ptr<sqlite3, Close> connection_;
};

}  // namespace fdspan::service
