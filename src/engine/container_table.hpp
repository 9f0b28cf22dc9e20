// All containers, by id and by name, and Docker's rules for finding one by what a user typed.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"
#include "engine/container.hpp"

namespace wherry::engine {

class ContainerTable {
  public:
    // conflict, with Docker's words, when the name is taken.
    Result<> reserve_name(const std::string& name, const std::string& id);
    void release_name(const std::string& name);
    bool has_name(const std::string& name) const { return names_.contains(name); }

    void add(ContainerPtr container);  // its name has been reserved
    void remove(const ContainerPtr& container);
    // A full id, a name, a unique prefix of an id, in this order.
    Result<ContainerPtr> find(std::string_view reference) const;
    ContainerPtr by_id(const std::string& id) const;
    std::vector<ContainerPtr> all() const;  // by creation, oldest first
    std::size_t size() const { return by_id_.size(); }

    // exec id -> container id
    std::unordered_map<std::string, std::string> execs;

  private:
    std::map<std::string, ContainerPtr> by_id_;
    std::unordered_map<std::string, std::string> names_;  // name -> id
};

}  // namespace wherry::engine
