// The body of a request, field by field: each is asked for once with its type, and what nobody asked for is refused.
// Messages are shaped like serde's, which Firecracker's clients know.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::vmm::api {

class Fields {
  public:
    explicit Fields(const json::object& object) : object_(&object) {}

    // Optional ones: absent and null are the same.
    Result<std::optional<std::string>> string(std::string_view name);
    Result<std::optional<bool>> boolean(std::string_view name);
    Result<std::optional<std::uint64_t>> number(std::string_view name, std::uint64_t largest = UINT64_MAX);
    Result<const json::object*> object(std::string_view name);  // nullptr when absent
    Result<const json::array*> array(std::string_view name);    // nullptr when absent
    Result<const json::value*> any(std::string_view name);      // nullptr when absent

    Result<std::string> required_string(std::string_view name);
    Result<bool> required_boolean(std::string_view name);
    Result<std::uint64_t> required_number(std::string_view name, std::uint64_t largest = UINT64_MAX);

    // After the last field: refuses the first that was not asked for.
    Result<> finish() const;

  private:
    const json::value* find(std::string_view name);
    const json::object* object_;
    std::vector<std::string_view> known_;
};

}  // namespace wherry::vmm::api
