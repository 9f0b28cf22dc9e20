#include "store/store.hpp"

namespace wherry::store {

Result<Revision> Store::commit(const Transaction& transaction) {
    std::vector<Result<Revision>> results = commit_all({&transaction, 1});
    return std::move(results.front());
}

Result<Record> Store::create(Record record) {
    const Revision revision = TRY(commit({Create{record}}));
    record.created = revision;
    record.revision = revision;
    return record;
}

Result<Record> Store::update(Record record) {
    record.revision = TRY(commit({Update{record}}));
    return record;
}

Result<Revision> Store::remove(std::string_view kind, std::string_view key, Revision expected) {
    return commit({Remove{.kind = std::string(kind), .key = std::string(key), .expected = expected}});
}

}  // namespace wherry::store
