#include "store/etcd/etcd_store.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "base/id.hpp"
#include "base/json.hpp"

namespace wherry::store {

namespace {

// etcd's --max-txn-ops is 128 by default; some room is left for the counter, the history and its trimming.
constexpr std::size_t max_operations = 120;
// Beyond its limit the history grows so much before the oldest is deleted.
constexpr Revision trim_slack = 256;
constexpr std::int64_t history_page = 500;

using RecordKey = std::pair<std::string, std::string>;  // kind, key

std::string history_name(Revision revision) {
    std::array<char, 24> digits{};
    std::snprintf(digits.data(), digits.size(), "%020llu", static_cast<unsigned long long>(revision));
    return digits.data();
}

json::object record_to_json(const Record& record) {
    json::object object;
    object["kind"] = record.kind;
    object["key"] = record.key;
    object["project"] = record.project;
    if (!record.node.empty()) object["node"] = record.node;
    object["spec"] = record.spec;
    object["status"] = record.status;
    object["created"] = record.created;
    object["revision"] = record.revision;
    return object;
}

Result<Record> record_from_json(const JsonReader& reader) {
    Record record;
    record.kind = TRY(reader.required_string("kind"));
    record.key = TRY(reader.required_string("key"));
    record.project = TRY(reader.string_or("project", ""));
    record.node = TRY(reader.string_or("node", ""));
    record.spec = TRY(reader.string_or("spec", ""));
    record.status = TRY(reader.string_or("status", ""));
    record.created = TRY(reader.unsigned_integer("created")).value_or(0);
    record.revision = TRY(reader.unsigned_integer("revision")).value_or(0);
    return record;
}

std::unexpected<Error> not_ours(Error error) {
    return std::unexpected(std::move(error).with_code(Code::data_loss).context("not a store of ours in etcd"));
}

Result<Record> parse_record(std::string_view text) {
    auto object = parse_json_object(text);
    if (!object) return not_ours(std::move(object).error());
    auto record = record_from_json(JsonReader(*object, "record"));
    if (!record) return not_ours(std::move(record).error());
    return record;
}

bool matches(const Query& query, const Record& record) {
    return (query.kind.empty() || query.kind == record.kind) && record.key.starts_with(query.key_prefix) &&
           (query.project.empty() || query.project == record.project) &&
           (query.node.empty() || query.node == record.node);
}

// The counter, as one key.
struct Counter {
    Revision revision = 0;
    Revision compacted = 0;
    std::int64_t mod_revision = 0;  // etcd's; 0: it is not there yet
};

Result<Counter> parse_counter(const std::vector<EtcdKeyValue>& found) {
    Counter counter;
    if (found.empty()) return counter;
    auto object = parse_json_object(found.front().value);
    if (!object) return not_ours(std::move(object).error());
    JsonReader reader(*object, "revision");
    auto revision = reader.unsigned_integer("revision");
    auto compacted = reader.unsigned_integer("compacted");
    if (!revision) return not_ours(std::move(revision).error());
    if (!compacted) return not_ours(std::move(compacted).error());
    counter.revision = revision->value_or(0);
    counter.compacted = compacted->value_or(0);
    counter.mod_revision = found.front().mod_revision;
    return counter;
}

std::string counter_to_json(const Counter& counter) {
    json::object object;
    object["revision"] = counter.revision;
    object["compacted"] = counter.compacted;
    return to_json(object);
}

// What the store and its watches share.
struct Shared {
    std::unique_ptr<EtcdClient> client;
    EtcdOptions options;
    std::atomic<bool> closed = false;

    std::string counter_key() const { return options.prefix + std::string("/revision"); }
    std::string records_prefix() const { return options.prefix + "/records" + std::string(1, '\0'); }
    std::string record_key(std::string_view kind, std::string_view key) const {
        std::string name = records_prefix();
        name.append(kind).append(1, '\0').append(key);
        return name;
    }
    std::string history_prefix() const { return options.prefix + "/history" + std::string(1, '\0'); }
    std::string history_key(Revision revision) const { return history_prefix() + history_name(revision); }
};

EtcdOperation range(std::string key, std::string end = {}, std::int64_t limit = 0) {
    return {.kind = EtcdOperation::Kind::range, .key = std::move(key), .range_end = std::move(end), .limit = limit};
}
EtcdOperation put(std::string key, std::string value) {
    return {.kind = EtcdOperation::Kind::put, .key = std::move(key), .value = std::move(value)};
}
EtcdOperation erase(std::string key, std::string end = {}) {
    return {.kind = EtcdOperation::Kind::remove, .key = std::move(key), .range_end = std::move(end)};
}

// One commit on its way: transactions applied to what was read, in memory. Whether the reading still holds is etcd's to
// compare when it is written.
class Draft {
  public:
    Draft(Revision revision, std::map<RecordKey, Record> records) : revision_(revision), records_(std::move(records)) {}

    Result<Revision> apply(const Transaction& transaction) {
        auto before_records = records_;
        auto before_touched = touched_;
        std::vector<Change> changes;
        for (const Operation& operation : transaction) {
            auto done = std::visit([&](const auto& one) { return apply(one, changes); }, operation);
            if (done) continue;
            records_ = std::move(before_records);
            touched_ = std::move(before_touched);
            return std::unexpected(std::move(done).error());
        }
        if (transaction.empty()) return revision_;
        ++revision_;
        history_.emplace_back(revision_, std::move(changes));
        return revision_;
    }

    Revision revision() const { return revision_; }
    const std::vector<std::pair<Revision, std::vector<Change>>>& history() const { return history_; }
    std::size_t touched() const { return touched_.size(); }
    template <class Visit>
    void each_touched(Visit visit) const {
        for (const RecordKey& name : touched_) {
            auto found = records_.find(name);
            visit(name, found == records_.end() ? nullptr : &found->second);
        }
    }

  private:
    static Result<> named(const Record& record) {
        if (!record.kind.empty() && !record.key.empty() && record.kind.find('\0') == std::string::npos) return {};
        return fail(Code::invalid_argument, "a record needs a kind and a key");
    }
    static Result<> compare(const Record& present, Revision expected) {
        if (present.revision == expected) return {};
        return fail(Code::conflict, present.kind + " " + present.key + " is at revision " +
                                        std::to_string(present.revision) + ", not " + std::to_string(expected));
    }
    const Record* find(const std::string& kind, const std::string& key) const {
        auto found = records_.find({kind, key});
        return found == records_.end() ? nullptr : &found->second;
    }
    void write(Record record, Revision created, std::vector<Change>& changes) {
        record.created = created;
        record.revision = revision_ + 1;
        RecordKey name{record.kind, record.key};
        changes.push_back({.type = Change::Type::put, .record = record});
        records_.insert_or_assign(name, std::move(record));
        touched_.push_back(std::move(name));
        std::ranges::sort(touched_);
        touched_.erase(std::ranges::unique(touched_).begin(), touched_.end());
    }

    Result<> apply(const Create& create, std::vector<Change>& changes) {
        TRY(named(create.record));
        if (find(create.record.kind, create.record.key) != nullptr)
            return fail(Code::already_exists, create.record.kind + " " + create.record.key + " exists already");
        write(create.record, revision_ + 1, changes);
        return {};
    }
    Result<> apply(const Update& update, std::vector<Change>& changes) {
        const Record* present = find(update.record.kind, update.record.key);
        if (present == nullptr) return fail(Code::not_found, "no " + update.record.kind + " " + update.record.key);
        TRY(compare(*present, update.record.revision));
        write(update.record, present->created, changes);
        return {};
    }
    Result<> apply(const Put& put_operation, std::vector<Change>& changes) {
        TRY(named(put_operation.record));
        const Record* present = find(put_operation.record.kind, put_operation.record.key);
        write(put_operation.record, present != nullptr ? present->created : revision_ + 1, changes);
        return {};
    }
    Result<> apply(const Remove& remove, std::vector<Change>& changes) {
        const Record* present = find(remove.kind, remove.key);
        if (present == nullptr) return fail(Code::not_found, "no " + remove.kind + " " + remove.key);
        if (remove.expected != 0) TRY(compare(*present, remove.expected));
        changes.push_back({.type = Change::Type::removed,
                           .record = {.kind = present->kind,
                                      .key = present->key,
                                      .project = present->project,
                                      .node = present->node,
                                      .revision = revision_ + 1}});
        RecordKey name{remove.kind, remove.key};
        records_.erase(name);
        touched_.push_back(std::move(name));
        std::ranges::sort(touched_);
        touched_.erase(std::ranges::unique(touched_).begin(), touched_.end());
        return {};
    }
    Result<> apply(const Check& check, std::vector<Change>&) {
        const Record* present = find(check.kind, check.key);
        if (check.expected == 0) {
            if (present != nullptr) return fail(Code::conflict, check.kind + " " + check.key + " exists");
            return {};
        }
        if (present == nullptr) return fail(Code::conflict, "no " + check.kind + " " + check.key);
        return compare(*present, check.expected);
    }

    Revision revision_;
    std::map<RecordKey, Record> records_;
    std::vector<RecordKey> touched_;
    std::vector<std::pair<Revision, std::vector<Change>>> history_;
};

std::string history_to_json(const std::vector<Change>& changes, const std::string& writer) {
    json::array list;
    for (const Change& change : changes) {
        json::object item = record_to_json(change.record);
        if (change.type == Change::Type::removed) item["removed"] = true;
        list.emplace_back(std::move(item));
    }
    json::object object;
    object["writer"] = writer;  // tells whose commit it was when the answer got lost
    object["changes"] = std::move(list);
    return to_json(object);
}

Result<std::vector<Change>> history_from_json(std::string_view text) {
    auto object = parse_json_object(text);
    if (!object) return not_ours(std::move(object).error());
    JsonReader reader(*object, "history");
    std::vector<Change> changes;
    for (const JsonReader& item : TRY(reader.children("changes"))) {
        Change change;
        if (TRY(item.boolean_or("removed", false))) change.type = Change::Type::removed;
        change.record = TRY(record_from_json(item));
        changes.push_back(std::move(change));
    }
    return changes;
}

class EtcdWatch final : public Watch {
  public:
    EtcdWatch(std::shared_ptr<Shared> shared, Query query, Revision position)
        : shared_(std::move(shared)), query_(std::move(query)), position_(position) {}

    Result<std::vector<Change>> next(std::chrono::milliseconds timeout) override {
        const auto deadline = std::chrono::steady_clock::now() + timeout;
        for (;;) {
            if (shared_->closed) return fail(Code::unavailable, "the store is closed");
            std::int64_t seen = 0;
            std::vector<Change> changes = TRY(read(seen));
            if (!changes.empty() || std::chrono::steady_clock::now() >= deadline) return changes;
            if (seen == 0) continue;  // there is more to read
            if (!TRY(wait(seen + 1, deadline))) return std::vector<Change>{};
        }
    }

  private:
    // Changes of the next page of history that the query wants. `seen`: etcd's revision, once nothing is left to read.
    Result<std::vector<Change>> read(std::int64_t& seen) {
        EtcdAnswer answer = TRY(shared_->client->transact(
            {}, {range(shared_->counter_key()), range(shared_->history_key(position_ + 1),
                                                      etcd_prefix_end(shared_->history_prefix()), history_page)}));
        if (answer.ranges.size() != 2) return fail(Code::data_loss, "etcd: an answer is missing");
        Counter counter = TRY(parse_counter(answer.ranges[0]));
        if (position_ < counter.compacted)
            return fail(Code::out_of_range, "revision " + std::to_string(position_) +
                                                " has been compacted; the oldest kept is " +
                                                std::to_string(counter.compacted));
        std::vector<Change> wanted;
        for (const EtcdKeyValue& item : answer.ranges[1]) {
            for (Change& change : TRY(history_from_json(item.value))) {
                if (matches(query_, change.record)) wanted.push_back(std::move(change));
            }
            ++position_;
        }
        if (position_ == counter.revision) seen = answer.revision;
        if (position_ > counter.revision || (seen == 0 && answer.ranges[1].empty()))
            return fail(Code::data_loss, "etcd: the history has a gap");
        return wanted;
    }

    Result<bool> wait(std::int64_t from, std::chrono::steady_clock::time_point deadline) {
        for (int attempt = 0;; ++attempt) {
            if (!stream_) stream_.emplace(TRY(shared_->client->watch(shared_->counter_key(), from)));
            auto woken = stream_->wait(deadline, [this] { return shared_->closed.load(); });
            if (woken) return *woken;
            stream_.reset();
            // A stream that broke is opened again, once; what was missed is in the history.
            if (shared_->closed || attempt > 0) return std::unexpected(std::move(woken).error());
        }
    }

    std::shared_ptr<Shared> shared_;
    Query query_;
    Revision position_;
    std::optional<EtcdWatchStream> stream_;
};

class EtcdStore final : public Store {
  public:
    explicit EtcdStore(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
    ~EtcdStore() override { shared_->closed = true; }

    Result<Record> get(std::string_view kind, std::string_view key) override {
        EtcdAnswer answer = TRY(shared_->client->transact({}, {range(shared_->record_key(kind, key))}));
        if (answer.ranges.empty() || answer.ranges[0].empty())
            return fail(Code::not_found, "no " + std::string(kind) + " " + std::string(key));
        return parse_record(answer.ranges[0].front().value);
    }

    Result<Listing> list(const Query& query) override {
        // Keys sort by kind, then key: the narrowest range the query allows.
        std::string prefix =
            query.kind.empty() ? shared_->records_prefix() : shared_->record_key(query.kind, query.key_prefix);
        EtcdAnswer answer =
            TRY(shared_->client->transact({}, {range(shared_->counter_key()), range(prefix, etcd_prefix_end(prefix))}));
        if (answer.ranges.size() != 2) return fail(Code::data_loss, "etcd: an answer is missing");
        Listing listing;
        listing.revision = TRY(parse_counter(answer.ranges[0])).revision;
        for (const EtcdKeyValue& item : answer.ranges[1]) {
            Record record = TRY(parse_record(item.value));
            if (matches(query, record)) listing.records.push_back(std::move(record));
        }
        return listing;
    }

    std::vector<Result<Revision>> commit_all(std::span<const Transaction> transactions) override {
        // Our own threads need not race each other.
        const std::scoped_lock lock(commits_);
        std::vector<Result<Revision>> results;
        while (results.size() < transactions.size()) {
            std::span<const Transaction> rest = transactions.subspan(results.size());
            std::size_t count = fitting(rest);
            auto part = commit_part(rest.first(count));
            if (part) {
                for (auto& one : *part) results.push_back(std::move(one));
            } else {
                for (std::size_t i = 0; i < count; ++i) results.emplace_back(std::unexpected(part.error().clone()));
            }
        }
        return results;
    }

    Result<Revision> revision() override { return TRY(counter()).revision; }

    Result<std::unique_ptr<Watch>> watch(const Query& query, Revision from) override {
        if (from > TRY(counter()).revision)
            return fail(Code::invalid_argument, "revision " + std::to_string(from) + " is in the future");
        return std::make_unique<EtcdWatch>(shared_, query, from);
    }

    Result<> compact(Revision through) override {
        const std::scoped_lock lock(commits_);
        for (int attempt = 0; attempt < shared_->options.max_attempts; ++attempt) {
            Counter now = TRY(counter());
            if (through > now.revision)
                return fail(Code::out_of_range, "revision " + std::to_string(through) + " is in the future");
            if (through <= now.compacted) return {};
            EtcdCompare unchanged{shared_->counter_key(), now.mod_revision};
            now.compacted = through;
            EtcdAnswer answer = TRY(shared_->client->transact(
                {unchanged}, {put(shared_->counter_key(), counter_to_json(now)),
                              erase(shared_->history_prefix(), shared_->history_key(through + 1))}));
            if (answer.succeeded) return {};
            back_off(attempt);
        }
        return contended();
    }

    Result<Counter> counter() {
        EtcdAnswer answer = TRY(shared_->client->transact({}, {range(shared_->counter_key())}));
        if (answer.ranges.empty()) return fail(Code::data_loss, "etcd: an answer is missing");
        return parse_counter(answer.ranges[0]);
    }

  private:
    static std::unexpected<Error> contended() {
        return fail(Code::unavailable, "etcd: other writers always came first");
    }

    // Waits for a moment that grows with the attempts and differs between writers.
    void back_off(int attempt) {
        std::uniform_int_distribution<int> spread(0, std::min(1 + attempt, 50));
        std::this_thread::sleep_for(std::chrono::milliseconds(spread(random_)));
    }

    static std::size_t operations_of(const Transaction& transaction) { return transaction.size() + 1; }

    // How many of the first transactions go into one of etcd's; at least one.
    static std::size_t fitting(std::span<const Transaction> transactions) {
        std::size_t sum = 0;
        std::size_t count = 0;
        for (const Transaction& transaction : transactions) {
            sum += operations_of(transaction);
            if (count > 0 && sum > max_operations) break;
            ++count;
        }
        return count;
    }

    struct Reading {
        Counter counter;
        std::map<RecordKey, Record> records;
    };

    Result<Reading> read(std::span<const Transaction> transactions) {
        std::vector<EtcdOperation> operations{range(shared_->counter_key())};
        auto wanted = [&](const std::string& kind, const std::string& key) {
            operations.push_back(range(shared_->record_key(kind, key)));
        };
        for (const Transaction& transaction : transactions) {
            for (const Operation& operation : transaction) {
                std::visit(
                    [&](const auto& one) {
                        if constexpr (requires { one.record; }) {
                            wanted(one.record.kind, one.record.key);
                        } else {
                            wanted(one.kind, one.key);
                        }
                    },
                    operation);
            }
        }
        EtcdAnswer answer = TRY(shared_->client->transact({}, operations));
        if (answer.ranges.size() != operations.size()) return fail(Code::data_loss, "etcd: an answer is missing");
        Reading reading;
        reading.counter = TRY(parse_counter(answer.ranges[0]));
        for (std::size_t i = 1; i < answer.ranges.size(); ++i) {
            for (const EtcdKeyValue& item : answer.ranges[i]) {
                Record record = TRY(parse_record(item.value));
                RecordKey name{record.kind, record.key};
                reading.records.insert_or_assign(std::move(name), std::move(record));
            }
        }
        return reading;
    }

    // Reads, applies in memory, writes if nobody else has written: again and again until that holds.
    Result<std::vector<Result<Revision>>> commit_part(std::span<const Transaction> transactions) {
        std::size_t sum = 0;
        for (const Transaction& transaction : transactions) sum += operations_of(transaction);
        if (sum > max_operations)
            return fail(Code::resource_exhausted, "a transaction of over " + std::to_string(max_operations - 1) +
                                                      " operations: etcd takes no more");
        const std::string writer = make_id();
        for (int attempt = 0; attempt < shared_->options.max_attempts; ++attempt) {
            Reading reading = TRY(read(transactions));
            Counter before = reading.counter;
            Draft draft(before.revision, std::move(reading.records));
            std::vector<Result<Revision>> results;
            for (const Transaction& transaction : transactions) results.push_back(draft.apply(transaction));
            if (draft.revision() == before.revision) return results;
            auto written = write(draft, before, writer);
            if (!written) {
                // Whether it was done is not known: whose is the commit that is there now?
                auto ours = is_ours(draft.history().front().first, writer);
                if (!ours) return std::unexpected(std::move(written).error());
                if (*ours) return results;
                return std::unexpected(std::move(written).error());
            }
            if (*written) return results;
            back_off(attempt);
        }
        return contended();
    }

    Result<bool> write(const Draft& draft, const Counter& before, const std::string& writer) {
        Counter after = before;
        after.revision = draft.revision();
        std::vector<EtcdOperation> operations;
        draft.each_touched([&](const RecordKey& name, const Record* record) {
            std::string key = shared_->record_key(name.first, name.second);
            operations.push_back(record != nullptr ? put(std::move(key), to_json(record_to_json(*record)))
                                                   : erase(std::move(key)));
        });
        for (const auto& [revision, changes] : draft.history())
            operations.push_back(put(shared_->history_key(revision), history_to_json(changes, writer)));
        Revision limit = shared_->options.history_limit;
        if (after.revision - after.compacted > limit + trim_slack) {
            after.compacted = after.revision - limit;
            // Not what is being written in the same transaction: etcd refuses a key twice.
            after.compacted = std::min(after.compacted, before.revision);
            operations.push_back(erase(shared_->history_prefix(), shared_->history_key(after.compacted + 1)));
        }
        operations.push_back(put(shared_->counter_key(), counter_to_json(after)));
        EtcdAnswer answer = TRY(shared_->client->transact({{shared_->counter_key(), before.mod_revision}}, operations));
        return answer.succeeded;
    }

    Result<bool> is_ours(Revision revision, const std::string& writer) {
        EtcdAnswer answer = TRY(shared_->client->transact({}, {range(shared_->history_key(revision))}));
        if (answer.ranges.empty() || answer.ranges[0].empty()) return false;
        json::object object = TRY(parse_json_object(answer.ranges[0].front().value));
        return TRY(JsonReader(object).string_or("writer", "")) == writer;
    }

    std::shared_ptr<Shared> shared_;
    std::mutex commits_;
    std::minstd_rand random_{std::random_device{}()};
};

}  // namespace

Result<std::unique_ptr<Store>> open_etcd_store(EtcdOptions options) {
    if (options.prefix.empty() || options.prefix.front() != '/')
        return fail(Code::invalid_argument, "etcd: the prefix begins with /");
    auto shared = std::make_shared<Shared>();
    shared->client = TRY(EtcdClient::create(options.cluster));
    shared->options = std::move(options);
    auto store = std::make_unique<EtcdStore>(std::move(shared));
    TRY(store->counter(), "etcd");  // somebody answers, and what is there is ours
    return store;
}

}  // namespace wherry::store
