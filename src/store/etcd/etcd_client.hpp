// etcd's v3 API by its JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/): transactions and watches,
// as values. Keys and values are bytes. Several endpoints are tried in turn; the one that answered last comes first.
//
// Threading: may be shared by threads; a WatchStream belongs to one at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "http/client.hpp"

namespace wherry::store {

struct EtcdEndpointOptions {
    std::vector<std::string> endpoints;  // "http://10.0.0.1:2379"; https with `tls`
    std::optional<http::ClientTls> tls;
    std::string user, password;  // both empty: no authentication
    std::chrono::milliseconds request_timeout{10'000};
};

struct EtcdKeyValue {
    std::string key, value;
    std::int64_t mod_revision = 0;
};

struct EtcdCompare {  // mod_revision 0: the key does not exist
    std::string key;
    std::int64_t mod_revision = 0;
};

struct EtcdOperation {
    enum class Kind : unsigned char { range, put, remove };
    Kind kind = Kind::range;
    std::string key;
    std::string range_end;   // range, remove: keys in [key, range_end); empty: the one key
    std::string value;       // put
    std::int64_t limit = 0;  // range: at most so many; 0: all
};

struct EtcdAnswer {
    bool succeeded = false;
    std::int64_t revision = 0;                      // of etcd, at the moment of the transaction
    std::vector<std::vector<EtcdKeyValue>> ranges;  // of the range operations, in their order
};

// The end of the range of all keys that begin with `prefix`.
std::string etcd_prefix_end(std::string prefix);
// What a transaction answers; for tests and the fuzz target.
Result<EtcdAnswer> parse_etcd_answer(std::string_view body);
// One line of a watch: whether it tells of events. cancelled when etcd ends the watch.
Result<bool> parse_etcd_watch_line(std::string_view line);

class EtcdWatchStream {
  public:
    // Until events have come (true), or the deadline (false). An error ends the stream.
    Result<bool> wait(std::chrono::steady_clock::time_point deadline, const std::function<bool()>& cancelled);

  private:
    friend class EtcdClient;
    explicit EtcdWatchStream(http::ClientResponse response) : response_(std::move(response)) {}
    Result<bool> take_lines();

    http::ClientResponse response_;
    std::string buffer_;
};

class EtcdClient {
  public:
    static Result<std::unique_ptr<EtcdClient>> create(EtcdEndpointOptions options);
    ~EtcdClient();
    EtcdClient(const EtcdClient&) = delete;
    EtcdClient& operator=(const EtcdClient&) = delete;

    // All of `then` when every comparison holds, else nothing. An error with code unavailable, deadline_exceeded or
    // data_loss leaves open whether it was done.
    Result<EtcdAnswer> transact(const std::vector<EtcdCompare>& compares, const std::vector<EtcdOperation>& then);
    // Events of one key from etcd's revision `from` on.
    Result<EtcdWatchStream> watch(const std::string& key, std::int64_t from);

  private:
    struct State;
    explicit EtcdClient(std::unique_ptr<State> state);
    Result<http::ClientResponse> post(const std::string& target, const std::string& body);
    Result<std::string> call(const std::string& target, const std::string& body);
    Result<> authenticate();

    std::unique_ptr<State> state_;
};

}  // namespace wherry::store
