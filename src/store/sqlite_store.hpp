// The store on SQLite, one file in WAL mode. Commits made at the same time by several threads share one disk write.
#pragma once

#include <memory>
#include <string>

#include "store/store.hpp"

namespace wherry::store {

struct SqliteOptions {
    std::string path;
    // History kept for watchers, in changes; older ones are compacted away by and by.
    std::size_t history_limit = 1000;
};

// unavailable when another process has the store open; data_loss when the file is no store of ours.
Result<std::unique_ptr<Store>> open_sqlite_store(SqliteOptions options);

}  // namespace wherry::store
