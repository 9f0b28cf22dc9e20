#include "store/sqlite_store.hpp"

#include <sqlite3.h>

#include <condition_variable>
#include <mutex>
#include <utility>

namespace wherry::store {
namespace {

constexpr int schema_version = 1;
constexpr std::string_view application_schema = R"(
CREATE TABLE records(kind TEXT NOT NULL, key TEXT NOT NULL, project TEXT NOT NULL, node TEXT NOT NULL, spec TEXT NOT NULL,
  status TEXT NOT NULL, created INTEGER NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY(kind, key)) WITHOUT ROWID;
CREATE TABLE history(revision INTEGER NOT NULL, ordinal INTEGER NOT NULL, type INTEGER NOT NULL, kind TEXT NOT NULL,
  key TEXT NOT NULL, project TEXT NOT NULL, node TEXT NOT NULL, spec TEXT NOT NULL, status TEXT NOT NULL,
  created INTEGER NOT NULL, PRIMARY KEY(revision, ordinal)) WITHOUT ROWID;
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES('revision', 0), ('compacted', 0), ('schema', 1);
)";
// How many changes beyond the limit gather before the oldest are deleted, so that it is not done at each commit.
constexpr std::size_t trim_slack = 256;

Code code_of(int status) {
    switch (status & 0xff) {
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
            return Code::unavailable;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
            return Code::data_loss;
        case SQLITE_FULL:
            return Code::resource_exhausted;
        case SQLITE_CONSTRAINT:
            return Code::already_exists;
        case SQLITE_CANTOPEN:
        case SQLITE_PERM:
        case SQLITE_READONLY:
            return Code::permission_denied;
        default:
            return Code::internal;
    }
}

std::unexpected<Error> fail_sqlite(sqlite3* database, int status, std::string_view what) {
    return fail(code_of(status),
                std::string(what) + ": " + (database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(status)));
}

struct CloseDatabase {
    void operator()(sqlite3* database) const { sqlite3_close(database); }
};
using Database = std::unique_ptr<sqlite3, CloseDatabase>;

struct FinalizeStatement {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};

// A prepared statement, reused. bind() starts it anew; values must outlive the stepping.
class Statement {
  public:
    Result<> prepare(sqlite3* database, std::string_view sql) {
        sqlite3_stmt* raw = nullptr;
        const int status = sqlite3_prepare_v3(database, sql.data(), static_cast<int>(sql.size()),
                                              SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
        statement_.reset(raw);
        if (status != SQLITE_OK) return fail_sqlite(database, status, "preparing a statement");
        return {};
    }

    template <class... Values>
    Statement& bind(const Values&... values) {
        sqlite3_reset(statement_.get());
        int index = 0;
        (bind_one(++index, values), ...);
        return *this;
    }

    // true: a row is there; false: done.
    Result<bool> step() {
        const int status = sqlite3_step(statement_.get());
        if (status == SQLITE_ROW) return true;
        sqlite3* database = sqlite3_db_handle(statement_.get());
        if (status != SQLITE_DONE) {
            auto error = fail_sqlite(database, status, "store");
            sqlite3_reset(statement_.get());
            return error;
        }
        sqlite3_reset(statement_.get());
        return false;
    }
    Result<> run() {
        while (TRY(step())) {
        }
        return {};
    }
    void reset() { sqlite3_reset(statement_.get()); }

    std::string text(int column) const {
        // SAFETY: SQLite hands out UTF-8 bytes as unsigned char.
        const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
        return data == nullptr
                   ? std::string{}
                   : std::string(data, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column)));
    }
    std::uint64_t number(int column) const {
        return static_cast<std::uint64_t>(sqlite3_column_int64(statement_.get(), column));
    }

  private:
    void bind_one(int index, std::string_view value) {
        const char* data = value.empty() ? "" : value.data();  // a null pointer would be SQL's NULL
        sqlite3_bind_text(statement_.get(), index, data, static_cast<int>(value.size()), SQLITE_STATIC);
    }
    void bind_one(int index, std::uint64_t value) {
        sqlite3_bind_int64(statement_.get(), index, static_cast<sqlite3_int64>(value));
    }

    std::unique_ptr<sqlite3_stmt, FinalizeStatement> statement_;
};

bool matches(const Query& query, const Record& record) {
    return (query.kind.empty() || query.kind == record.kind) && record.key.starts_with(query.key_prefix) &&
           (query.project.empty() || query.project == record.project) &&
           (query.node.empty() || query.node == record.node);
}

// What the store and its watches share: a watch outlives the store and then says so.
struct Shared {
    std::mutex mutex;  // guards the database, the statements and all below
    std::condition_variable changed;
    Database database;
    bool closed = false;
    Revision revision = 0;
    Revision compacted = 0;
    std::size_t history_size = 0;
    std::size_t history_limit = 0;

    Statement begin, commit, rollback, savepoint, rollback_to, release;
    Statement get, insert, update, remove, list, remember, history, set_meta, compact, history_count, compact_point;
};

Record record_at(const Statement& row, int first) {
    return {.kind = row.text(first),
            .key = row.text(first + 1),
            .project = row.text(first + 2),
            .node = row.text(first + 3),
            .spec = row.text(first + 4),
            .status = row.text(first + 5),
            .created = row.number(first + 6),
            .revision = row.number(first + 7)};
}

class SqliteWatch final : public Watch {
  public:
    SqliteWatch(std::shared_ptr<Shared> shared, Query query, Revision position)
        : shared_(std::move(shared)), query_(std::move(query)), position_(position) {}

    Result<std::vector<Change>> next(std::chrono::milliseconds timeout) override {
        const auto deadline = std::chrono::steady_clock::now() + timeout;
        std::unique_lock lock(shared_->mutex);
        while (true) {
            if (shared_->closed) return fail(Code::unavailable, "the store is closed");
            if (position_ < shared_->compacted) {
                return fail(Code::out_of_range, "revision " + std::to_string(position_) +
                                                    " has been compacted; the oldest kept is " +
                                                    std::to_string(shared_->compacted));
            }
            std::vector<Change> changes = TRY(read());
            if (!changes.empty()) return changes;
            if (shared_->changed.wait_until(lock, deadline) == std::cv_status::timeout) {
                return shared_->closed || shared_->revision == position_ ? std::vector<Change>{} : TRY(read());
            }
        }
    }

  private:
    Result<std::vector<Change>> read() {
        std::vector<Change> changes;
        if (shared_->revision == position_) return changes;
        Statement& rows = shared_->history.bind(position_);
        while (TRY(rows.step())) {
            Change change{.type = rows.number(0) == 0 ? Change::Type::put : Change::Type::removed,
                          .record = record_at(rows, 1)};
            if (matches(query_, change.record)) {
                if (change.type == Change::Type::removed) {
                    change.record = {.kind = change.record.kind,
                                     .key = change.record.key,
                                     .project = change.record.project,
                                     .node = change.record.node,
                                     .revision = change.record.revision};
                }
                changes.push_back(std::move(change));
            }
        }
        position_ = shared_->revision;
        return changes;
    }

    std::shared_ptr<Shared> shared_;
    Query query_;
    Revision position_;
};

class SqliteStore final : public Store {
  public:
    explicit SqliteStore(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
    ~SqliteStore() override {
        const std::scoped_lock lock(shared_->mutex);
        shared_->closed = true;
        for (Statement* statement :
             {&shared_->begin, &shared_->commit, &shared_->rollback, &shared_->savepoint, &shared_->rollback_to,
              &shared_->release, &shared_->get, &shared_->insert, &shared_->update, &shared_->remove, &shared_->list,
              &shared_->remember, &shared_->history, &shared_->set_meta, &shared_->compact, &shared_->history_count,
              &shared_->compact_point}) {
            *statement = {};
        }
        shared_->database.reset();
        shared_->changed.notify_all();
    }

    Result<Record> get(std::string_view kind, std::string_view key) override {
        const std::scoped_lock lock(shared_->mutex);
        std::optional<Record> record = TRY(find(kind, key));
        if (!record) return fail(Code::not_found, "no " + std::string(kind) + " " + std::string(key));
        return std::move(*record);
    }

    Result<Listing> list(const Query& query) override {
        const std::scoped_lock lock(shared_->mutex);
        Listing listing{.records = {}, .revision = shared_->revision};
        Statement& rows = shared_->list.bind(std::string_view(query.kind), std::string_view(query.key_prefix),
                                             std::string_view(query.project), std::string_view(query.node));
        while (TRY(rows.step())) listing.records.push_back(record_at(rows, 0));
        return listing;
    }

    std::vector<Result<Revision>> commit_all(std::span<const Transaction> transactions) override {
        const std::scoped_lock lock(shared_->mutex);
        std::vector<Result<Revision>> results;
        results.reserve(transactions.size());
        const Revision before = shared_->revision;
        const std::size_t history_before = shared_->history_size;
        Result<> whole = shared_->begin.bind().run();
        if (whole) {
            for (const Transaction& transaction : transactions) results.push_back(apply_one(transaction));
            if (shared_->revision != before) {
                whole = shared_->set_meta.bind(std::string_view("revision"), shared_->revision).run();
                if (whole) whole = trim();
                if (whole) whole = shared_->commit.bind().run();
            } else {
                whole = shared_->rollback.bind().run();
            }
        }
        if (!whole) {  // nothing of it happened
            std::ignore = shared_->rollback.bind().run();
            shared_->revision = before;
            shared_->history_size = history_before;
            std::vector<Result<Revision>> failed;
            for (std::size_t i = 0; i < transactions.size(); ++i)
                failed.emplace_back(std::unexpected(whole.error().clone()));
            return failed;
        }
        if (shared_->revision != before) shared_->changed.notify_all();
        return results;
    }

    Result<Revision> revision() override {
        const std::scoped_lock lock(shared_->mutex);
        return shared_->revision;
    }

    Result<std::unique_ptr<Watch>> watch(const Query& query, Revision from) override {
        const std::scoped_lock lock(shared_->mutex);
        if (from > shared_->revision) {
            return fail(Code::invalid_argument, "revision " + std::to_string(from) + " is in the future");
        }
        return std::make_unique<SqliteWatch>(shared_, query, from);
    }

    Result<> compact(Revision through) override {
        const std::scoped_lock lock(shared_->mutex);
        if (through > shared_->revision) {
            return fail(Code::out_of_range, "revision " + std::to_string(through) + " is in the future");
        }
        if (through <= shared_->compacted) return {};
        TRY(shared_->begin.bind().run());
        Result<> done = forget(through);
        if (done) done = shared_->commit.bind().run();
        if (!done) std::ignore = shared_->rollback.bind().run();
        shared_->changed.notify_all();
        return done;
    }

  private:
    Result<std::optional<Record>> find(std::string_view kind, std::string_view key) {
        if (!TRY(shared_->get.bind(kind, key).step())) return std::nullopt;
        Record record = record_at(shared_->get, 0);
        shared_->get.reset();
        return record;
    }

    Result<Revision> apply_one(const Transaction& transaction) {
        TRY(shared_->savepoint.bind().run());
        const Revision next = shared_->revision + 1;
        const std::size_t history_before = shared_->history_size;
        std::uint64_t ordinal = 0;
        Result<> outcome;
        for (const Operation& operation : transaction) {
            outcome = std::visit([&](const auto& one) { return apply(one, next, ordinal); }, operation);
            ++ordinal;
            if (!outcome) break;
        }
        if (!outcome) {
            shared_->history_size = history_before;
            TRY(shared_->rollback_to.bind().run());
            TRY(shared_->release.bind().run());
            return std::unexpected(std::move(outcome).error());
        }
        TRY(shared_->release.bind().run());
        if (ordinal > 0) shared_->revision = next;
        return shared_->revision;
    }

    Result<> remember(Change::Type type, const Record& record, Revision created, Revision at, std::uint64_t ordinal) {
        ++shared_->history_size;
        const bool put = type == Change::Type::put;
        return shared_->remember
            .bind(at, ordinal, std::uint64_t{put ? 0U : 1U}, std::string_view(record.kind),
                  std::string_view(record.key), std::string_view(record.project), std::string_view(record.node),
                  put ? std::string_view(record.spec) : std::string_view(),
                  put ? std::string_view(record.status) : std::string_view(), created)
            .run();
    }

    Result<> insert(const Record& record, Revision at, std::uint64_t ordinal) {
        TRY(shared_->insert
                .bind(std::string_view(record.kind), std::string_view(record.key), std::string_view(record.project),
                      std::string_view(record.node), std::string_view(record.spec), std::string_view(record.status), at)
                .run());
        return remember(Change::Type::put, record, at, at, ordinal);
    }

    Result<> overwrite(const Record& record, Revision created, Revision at, std::uint64_t ordinal) {
        TRY(shared_->update
                .bind(std::string_view(record.kind), std::string_view(record.key), std::string_view(record.project),
                      std::string_view(record.node), std::string_view(record.spec), std::string_view(record.status), at)
                .run());
        return remember(Change::Type::put, record, created, at, ordinal);
    }

    Result<> apply(const Create& create, Revision at, std::uint64_t ordinal) {
        if (create.record.kind.empty() || create.record.key.empty()) {
            return fail(Code::invalid_argument, "a record needs a kind and a key");
        }
        if (TRY(find(create.record.kind, create.record.key))) {
            return fail(Code::already_exists, create.record.kind + " " + create.record.key + " exists already");
        }
        return insert(create.record, at, ordinal);
    }

    Result<> apply(const Update& update, Revision at, std::uint64_t ordinal) {
        const std::optional<Record> present = TRY(find(update.record.kind, update.record.key));
        if (!present) return fail(Code::not_found, "no " + update.record.kind + " " + update.record.key);
        TRY(compare(*present, update.record.revision));
        return overwrite(update.record, present->created, at, ordinal);
    }

    Result<> apply(const Put& put, Revision at, std::uint64_t ordinal) {
        if (put.record.kind.empty() || put.record.key.empty()) {
            return fail(Code::invalid_argument, "a record needs a kind and a key");
        }
        const std::optional<Record> present = TRY(find(put.record.kind, put.record.key));
        return present ? overwrite(put.record, present->created, at, ordinal) : insert(put.record, at, ordinal);
    }

    Result<> apply(const Remove& remove, Revision at, std::uint64_t ordinal) {
        const std::optional<Record> present = TRY(find(remove.kind, remove.key));
        if (!present) return fail(Code::not_found, "no " + remove.kind + " " + remove.key);
        if (remove.expected != 0) TRY(compare(*present, remove.expected));
        TRY(shared_->remove.bind(std::string_view(remove.kind), std::string_view(remove.key)).run());
        return remember(Change::Type::removed, *present, present->created, at, ordinal);
    }

    Result<> apply(const Check& check, Revision, std::uint64_t) {
        const std::optional<Record> present = TRY(find(check.kind, check.key));
        if (check.expected == 0) {
            if (present) return fail(Code::conflict, check.kind + " " + check.key + " exists");
            return {};
        }
        if (!present) return fail(Code::conflict, "no " + check.kind + " " + check.key);
        return compare(*present, check.expected);
    }

    static Result<> compare(const Record& present, Revision expected) {
        if (present.revision == expected) return {};
        return fail(Code::conflict, present.kind + " " + present.key + " is at revision " +
                                        std::to_string(present.revision) + ", not " + std::to_string(expected));
    }

    Result<> trim() {
        if (shared_->history_size < shared_->history_limit + trim_slack) return {};
        if (!TRY(shared_->compact_point.bind(std::uint64_t{shared_->history_limit}).step())) return {};
        const Revision through = shared_->compact_point.number(0);
        shared_->compact_point.reset();
        return forget(through);
    }

    Result<> forget(Revision through) {
        TRY(shared_->compact.bind(through).run());
        TRY(shared_->set_meta.bind(std::string_view("compacted"), through).run());
        if (!TRY(shared_->history_count.bind().step())) return fail(Code::internal, "counting the history");
        shared_->history_size = shared_->history_count.number(0);
        shared_->history_count.reset();
        shared_->compacted = through;
        return {};
    }

    std::shared_ptr<Shared> shared_;
};

Result<> execute(sqlite3* database, const char* sql) {
    const int status = sqlite3_exec(database, sql, nullptr, nullptr, nullptr);
    if (status != SQLITE_OK) return fail_sqlite(database, status, "store");
    return {};
}

Result<std::uint64_t> read_number(sqlite3* database, std::string_view sql) {
    Statement statement;
    TRY(statement.prepare(database, sql));
    if (!TRY(statement.bind().step())) return std::uint64_t{0};
    return statement.number(0);
}

Result<> prepare_all(Shared& shared) {
    sqlite3* database = shared.database.get();
    TRY(shared.begin.prepare(database, "BEGIN IMMEDIATE"));
    TRY(shared.commit.prepare(database, "COMMIT"));
    TRY(shared.rollback.prepare(database, "ROLLBACK"));
    TRY(shared.savepoint.prepare(database, "SAVEPOINT one"));
    TRY(shared.rollback_to.prepare(database, "ROLLBACK TO one"));
    TRY(shared.release.prepare(database, "RELEASE one"));
    TRY(shared.get.prepare(
        database,
        "SELECT kind, key, project, node, spec, status, created, revision FROM records WHERE kind = ?1 "
        "AND key = ?2"));
    TRY(shared.insert.prepare(database, "INSERT INTO records VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)"));
    TRY(shared.update.prepare(database,
                              "UPDATE records SET project = ?3, node = ?4, spec = ?5, status = ?6, revision = ?7 WHERE "
                              "kind = ?1 AND key = ?2"));
    TRY(shared.remove.prepare(database, "DELETE FROM records WHERE kind = ?1 AND key = ?2"));
    TRY(shared.list.prepare(
        database,
        "SELECT kind, key, project, node, spec, status, created, revision FROM records WHERE (?1 = '' "
        "OR kind = ?1) AND substr(key, 1, length(?2)) = ?2 AND (?3 = '' OR project = ?3) AND (?4 = '' "
        "OR node = ?4) ORDER BY kind, key"));
    TRY(shared.remember.prepare(database, "INSERT INTO history VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"));
    TRY(shared.history.prepare(
        database,
        "SELECT type, kind, key, project, node, spec, status, created, revision FROM history WHERE "
        "revision > ?1 ORDER BY revision, ordinal"));
    TRY(shared.set_meta.prepare(database, "UPDATE meta SET value = ?2 WHERE name = ?1"));
    TRY(shared.compact.prepare(database, "DELETE FROM history WHERE revision <= ?1"));
    TRY(shared.history_count.prepare(database, "SELECT count(*) FROM history"));
    TRY(shared.compact_point.prepare(
        database, "SELECT revision FROM history ORDER BY revision DESC, ordinal DESC LIMIT 1 OFFSET ?1"));
    return {};
}

}  // namespace

Result<std::unique_ptr<Store>> open_sqlite_store(const SqliteOptions& options) {
    auto shared = std::make_shared<Shared>();
    sqlite3* raw = nullptr;
    const int status = sqlite3_open_v2(options.path.c_str(), &raw,
                                       SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
    shared->database.reset(raw);
    if (status != SQLITE_OK) return fail_sqlite(raw, status, "opening " + options.path);
    shared->history_limit = options.history_limit;
    // Exclusive: one process, and the index of the WAL in its own memory instead of a shared file. A small page cache:
    // the engine keeps what it works with itself.
    TRY(execute(raw,
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; "
                "PRAGMA cache_size = -256; PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 4194304; "
                "PRAGMA wal_autocheckpoint = 512; BEGIN EXCLUSIVE"),
        options.path);
    const std::uint64_t tables = TRY(read_number(raw, "SELECT count(*) FROM sqlite_master"), options.path);
    if (tables == 0) {
        TRY(execute(raw, std::string(application_schema).c_str()), options.path);
    } else if (TRY(read_number(
                   raw, "SELECT count(*) FROM sqlite_master WHERE name IN ('records', 'history', 'meta')")) != 3) {
        return fail(Code::data_loss, options.path + " is not a store of wherry");
    } else if (const std::uint64_t schema = TRY(read_number(raw, "SELECT value FROM meta WHERE name = 'schema'"));
               schema != schema_version) {
        return fail(Code::unimplemented, options.path + " has the format " + std::to_string(schema) +
                                             ", this program knows " + std::to_string(schema_version));
    }
    TRY(execute(raw, "COMMIT"), options.path);
    shared->revision = TRY(read_number(raw, "SELECT value FROM meta WHERE name = 'revision'"));
    shared->compacted = TRY(read_number(raw, "SELECT value FROM meta WHERE name = 'compacted'"));
    shared->history_size = TRY(read_number(raw, "SELECT count(*) FROM history"));
    TRY(prepare_all(*shared));
    return std::make_unique<SqliteStore>(std::move(shared));
}

}  // namespace wherry::store
