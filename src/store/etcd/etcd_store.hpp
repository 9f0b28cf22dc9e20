// The store on etcd: the records of many hosts in one cluster. Any number of processes may write; each commit is one
// transaction of etcd that compares the store's revision counter and raises it, so that revisions have no gaps whatever
// else is in the cluster, and the history of changes lies beside the records.
//
// Keys, below the prefix (all binary-safe; decision 0135):
//   revision                 the number of the last commit, and how far the history is compacted
//   records\0<kind>\0<key>   a record, as JSON
//   history\0<revision>      the changes of one commit, as JSON; the revision as 20 digits
#pragma once

#include <memory>
#include <string>

#include "store/etcd/etcd_client.hpp"
#include "store/store.hpp"

namespace wherry::store {

struct EtcdOptions {
    EtcdEndpointOptions cluster;
    std::string prefix = "/wherry";  // one store each
    // History kept for watchers, in commits.
    std::size_t history_limit = 1000;
    // Other writers may come first that often before a commit gives up with `unavailable`.
    int max_attempts = 1000;
};

// unavailable when no endpoint answers; data_loss when what is below the prefix is no store of ours.
Result<std::unique_ptr<Store>> open_etcd_store(EtcdOptions options);

}  // namespace wherry::store
