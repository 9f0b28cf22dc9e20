// What wherry-runtime remembers of a container between its runs: <root>/<id>/state.json.
#pragma once

#include <optional>
#include <string>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "oci/container.hpp"

namespace wherry::runtime {

// Letters, digits and "_+-.", not beginning with a point, at most 255.
Result<> check_id(const std::string& id);

class StateDirectory {
  public:
    // Makes it; already_exists when the id is taken.
    static Result<StateDirectory> create(const std::string& root, const std::string& id);
    static Result<StateDirectory> open(const std::string& root, const std::string& id);

    const std::string& path() const { return path_; }
    std::string start_socket() const { return path_ + "/start.sock"; }
    Result<> save(const json::object& state) const;
    Result<json::object> load() const;
    Result<> remove() const;
    void unlock() { lock_.reset(); }

  private:
    StateDirectory(std::string path, Fd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
    std::string path_;
    Fd lock_;  // flock: one command a container at a time
};

}  // namespace wherry::runtime
