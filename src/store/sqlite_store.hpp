// The store on SQLite: one file in WAL mode, held exclusively by one process, synced at each commit. The history of
// changes is in the file too, so that watches go on across restarts.
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
Result<std::unique_ptr<Store>> open_sqlite_store(const SqliteOptions& options);

}  // namespace wherry::store
