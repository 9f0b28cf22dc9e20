// Durable records: what the daemon must still know after kill -9 or a power cut. A record has a kind and a key (its
// name), belongs to a project and a node, and carries a spec (what is wished) and a status (what was seen), both JSON
// documents that the store does not read. Every commit gets the next revision of the whole store; a record remembers
// the revision of its last change, and compare-and-swap compares with that.
//
// The interface has one implementation on SQLite (sqlite_store.hpp) and is shaped so that etcd can be another:
// store_contract_test.hpp is what each must pass.
//
// Threading: all calls block (up to a disk write) and may come from any thread. A commit that returned is durable.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.hpp"

namespace wherry::store {

using Revision = std::uint64_t;  // 0: none; the first commit is 1

struct Record {
    std::string kind;  // "container", "volume", ...: [a-z0-9-]
    std::string key;   // unique within the kind
    std::string project = "default";
    std::string node;       // the host that the record's workload belongs to; empty: none in particular
    std::string spec;       // JSON
    std::string status;     // JSON
    Revision created = 0;   // revision of the commit that created it; the store fills it in
    Revision revision = 0;  // revision of its last change; the store fills it in

    bool operator==(const Record&) const = default;
};

// Operations of a transaction: all or none.
struct Create {  // already_exists when there is one
    Record record;
};
struct Update {  // not_found, or conflict when the stored revision is not record.revision
    Record record;
};
struct Put {  // creates or overwrites, whatever is there
    Record record;
};
struct Remove {  // not_found; conflict when `expected` is not 0 and differs
    std::string kind;
    std::string key;
    Revision expected = 0;
};
struct Check {  // nothing but the comparison; expected 0: must not exist
    std::string kind;
    std::string key;
    Revision expected = 0;
};
using Operation = std::variant<Create, Update, Put, Remove, Check>;
using Transaction = std::vector<Operation>;

struct Change {
    enum class Type : unsigned char { put, removed };
    Type type = Type::put;
    Record record;  // of a removed one: kind, key and the revision of the removal
};

struct Query {
    std::string kind;        // empty: every kind
    std::string key_prefix;  // empty: every key
    std::string project;     // empty: every project
    std::string node;        // empty: every node
};

// A position in the store's history. Ends (with unavailable) when the store is closed.
class Watch {
  public:
    virtual ~Watch() = default;
    // The changes after the present position, oldest first, all of a commit together; empty after `timeout` without
    // one. out_of_range: the history was compacted past the position; list again and watch from there.
    virtual Result<std::vector<Change>> next(std::chrono::milliseconds timeout) = 0;
};

struct Listing {
    std::vector<Record> records;  // ordered by kind and key
    Revision revision = 0;        // of the store, at the moment of listing: watch from here misses nothing
};

class Store {
  public:
    virtual ~Store() = default;

    virtual Result<Record> get(std::string_view kind, std::string_view key) = 0;  // not_found
    virtual Result<Listing> list(const Query& query) = 0;
    // The revision of the commit: the revision that every created or updated record now has.
    Result<Revision> commit(const Transaction& transaction);
    // Independent transactions, in order, that share what a commit costs (one disk write): one result each. A failed
    // one changes nothing and does not touch its neighbours.
    virtual std::vector<Result<Revision>> commit_all(std::span<const Transaction> transactions) = 0;
    virtual Result<Revision> revision() = 0;
    // Changes after `from` (0: from the beginning of the history).
    virtual Result<std::unique_ptr<Watch>> watch(const Query& query, Revision from) = 0;
    // Forgets the history up to and including `through`; records stay.
    virtual Result<> compact(Revision through) = 0;

    // Shorthands of one-operation transactions; create and update answer the record with its new revisions.
    Result<Record> create(Record record);
    Result<Record> update(Record record);
    Result<Revision> remove(std::string_view kind, std::string_view key, Revision expected = 0);
};

}  // namespace wherry::store
