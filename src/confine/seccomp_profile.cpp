#include "confine/seccomp_profile.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace wherry::confine {
namespace {

template <class T>
struct Named {
    T value;
    std::string_view name;
};

constexpr std::array<Named<SeccompAction>, 8> actions{{
    {SeccompAction::kill_process, "SCMP_ACT_KILL_PROCESS"},
    {SeccompAction::kill_thread, "SCMP_ACT_KILL_THREAD"},
    {SeccompAction::trap, "SCMP_ACT_TRAP"},
    {SeccompAction::error_number, "SCMP_ACT_ERRNO"},
    {SeccompAction::trace, "SCMP_ACT_TRACE"},
    {SeccompAction::notify, "SCMP_ACT_NOTIFY"},
    {SeccompAction::log, "SCMP_ACT_LOG"},
    {SeccompAction::allow, "SCMP_ACT_ALLOW"},
}};

constexpr std::array<Named<SeccompOperator>, 7> operators{{
    {SeccompOperator::not_equal, "SCMP_CMP_NE"},
    {SeccompOperator::less, "SCMP_CMP_LT"},
    {SeccompOperator::less_equal, "SCMP_CMP_LE"},
    {SeccompOperator::equal, "SCMP_CMP_EQ"},
    {SeccompOperator::greater_equal, "SCMP_CMP_GE"},
    {SeccompOperator::greater, "SCMP_CMP_GT"},
    {SeccompOperator::masked_equal, "SCMP_CMP_MASKED_EQ"},
}};

// This machine's name in "includes" and "excludes", and in "archMap".
#if defined(__x86_64__)
constexpr std::string_view native_arch = "amd64";
constexpr std::string_view native_seccomp_arch = "SCMP_ARCH_X86_64";
#elif defined(__aarch64__)
constexpr std::string_view native_arch = "arm64";
constexpr std::string_view native_seccomp_arch = "SCMP_ARCH_AARCH64";
#else
#error "unknown architecture"
#endif

constexpr std::size_t most_rules = 4096;

Result<std::optional<std::uint32_t>> parse_errno(const JsonReader& reader, std::string_view key) {
    auto value = TRY(reader.unsigned_integer(key));
    if (!value) return std::nullopt;
    if (*value > 4095) return reader.wrong(key, "an error number up to 4095");
    return static_cast<std::uint32_t>(*value);
}

Result<SeccompAction> parse_action_at(const JsonReader& reader, std::string_view key) {
    std::string name = TRY(reader.required_string(key));
    return TRY(parse_seccomp_action(name), reader.path_of(key));
}

Result<SeccompArgument> parse_argument(const JsonReader& reader) {
    SeccompArgument argument;
    auto index = TRY(reader.unsigned_integer("index"));
    if (!index || *index > 5) return reader.wrong("index", "0 to 5");
    argument.index = static_cast<unsigned>(*index);
    argument.value = TRY(reader.unsigned_integer("value")).value_or(0);
    argument.value_two = TRY(reader.unsigned_integer("valueTwo")).value_or(0);
    std::string op = TRY(reader.required_string("op"));
    argument.op = TRY(parse_seccomp_operator(op), reader.path_of("op"));
    return argument;
}

Result<SeccompRule> parse_rule(const JsonReader& reader) {
    SeccompRule rule;
    rule.names = TRY(reader.strings("names"));
    // Docker's oldest profiles have one name a rule.
    if (auto name = TRY(reader.string("name")); name && !name->empty()) {
        if (!rule.names.empty()) return reader.wrong("name", "either name or names");
        rule.names.push_back(*name);
    }
    if (rule.names.empty()) return reader.wrong("names", "at least one system call");
    rule.action = TRY(parse_action_at(reader, "action"));
    rule.error_number = TRY(parse_errno(reader, "errnoRet"));
    for (const JsonReader& item : TRY(reader.children("args"))) rule.arguments.push_back(TRY(parse_argument(item)));
    if (rule.arguments.size() > 6) return reader.wrong("args", "at most six comparisons");
    return rule;
}

Result<> parse_head(const JsonReader& reader, SeccompProfile& profile) {
    profile.default_action = TRY(parse_action_at(reader, "defaultAction"));
    profile.default_error_number = TRY(parse_errno(reader, "defaultErrnoRet"));
    profile.architectures = TRY(reader.strings("architectures"));
    profile.flags = TRY(reader.strings("flags"));
    profile.listener_path = TRY(reader.string_or("listenerPath", ""));
    profile.listener_metadata = TRY(reader.string_or("listenerMetadata", ""));
    return {};
}

// "includes" or "excludes".
struct Filter {
    std::vector<std::string> capabilities;
    std::vector<std::string> arches;
    std::optional<KernelVersion> minimum_kernel;
};

Result<Filter> parse_filter(const JsonReader& rule, std::string_view key) {
    Filter filter;
    auto reader = TRY(rule.child(key));
    if (!reader) return filter;
    filter.capabilities = TRY(reader->strings("caps"));
    filter.arches = TRY(reader->strings("arches"));
    if (auto kernel = TRY(reader->string("minKernel")))
        filter.minimum_kernel = TRY(parse_kernel_version(*kernel), reader->path_of("minKernel"));
    return filter;
}

bool holds(const SeccompConditions& conditions, const std::string& capability) {
    auto number = capability_number(capability);
    return number && conditions.capabilities.contains(*number);
}

Result<bool> applies(const JsonReader& rule, const SeccompConditions& conditions) {
    auto has_arch = [](const Filter& filter) {
        return std::ranges::find(filter.arches, native_arch) != filter.arches.end();
    };
    auto has = [&](const std::string& capability) { return holds(conditions, capability); };
    Filter excludes = TRY(parse_filter(rule, "excludes"));
    if (has_arch(excludes)) return false;
    if (std::ranges::any_of(excludes.capabilities, has)) return false;
    if (excludes.minimum_kernel && conditions.kernel >= *excludes.minimum_kernel) return false;
    Filter includes = TRY(parse_filter(rule, "includes"));
    if (!includes.arches.empty() && !has_arch(includes)) return false;
    if (!std::ranges::all_of(includes.capabilities, has)) return false;
    return !includes.minimum_kernel || conditions.kernel >= *includes.minimum_kernel;
}

Result<> resolve_arch_map(const JsonReader& reader, SeccompProfile& profile) {
    auto entries = TRY(reader.children("archMap"));
    if (entries.empty()) return {};
    if (!profile.architectures.empty()) return reader.wrong("archMap", "either architectures or archMap");
    for (const JsonReader& entry : entries) {
        std::string architecture = TRY(entry.required_string("architecture"));
        auto below = TRY(entry.strings("subArchitectures"));
        if (architecture != native_seccomp_arch) continue;
        profile.architectures.push_back(architecture);
        profile.architectures.insert(profile.architectures.end(), below.begin(), below.end());
        break;
    }
    return {};
}

json::object rule_to_json(const SeccompRule& rule) {
    json::array names;
    for (const std::string& name : rule.names) names.push_back(json::value(name));
    json::object out{{"names", std::move(names)}, {"action", to_string(rule.action)}};
    if (rule.error_number) out["errnoRet"] = *rule.error_number;
    json::array arguments;
    for (const SeccompArgument& a : rule.arguments) {
        json::object item{{"index", a.index}, {"value", a.value}};
        if (a.value_two != 0) item["valueTwo"] = a.value_two;
        item["op"] = to_string(a.op);
        arguments.push_back(std::move(item));
    }
    if (!arguments.empty()) out["args"] = std::move(arguments);
    return out;
}

json::array strings_to_json(const std::vector<std::string>& strings) {
    json::array out;
    for (const std::string& s : strings) out.push_back(json::value(s));
    return out;
}

}  // namespace

std::string_view to_string(SeccompAction action) {
    return actions[static_cast<std::size_t>(action)].name;
}

Result<SeccompAction> parse_seccomp_action(std::string_view name) {
    if (name == "SCMP_ACT_KILL") return SeccompAction::kill_thread;
    for (const auto& candidate : actions)
        if (candidate.name == name) return candidate.value;
    return fail(Code::invalid_argument, "unknown seccomp action \"" + std::string(name) + "\"");
}

std::string_view to_string(SeccompOperator op) {
    return operators[static_cast<std::size_t>(op)].name;
}

Result<SeccompOperator> parse_seccomp_operator(std::string_view name) {
    for (const auto& candidate : operators)
        if (candidate.name == name) return candidate.value;
    return fail(Code::invalid_argument, "unknown seccomp operator \"" + std::string(name) + "\"");
}

Result<SeccompProfile> parse_oci_seccomp(const JsonReader& reader) {
    SeccompProfile profile;
    TRY(parse_head(reader, profile));
    auto rules = TRY(reader.children("syscalls"));
    if (rules.size() > most_rules) return reader.wrong("syscalls", "at most 4096 rules");
    for (const JsonReader& rule : rules) profile.rules.push_back(TRY(parse_rule(rule)));
    return profile;
}

json::object to_oci_json(const SeccompProfile& profile) {
    json::object out{{"defaultAction", to_string(profile.default_action)}};
    if (profile.default_error_number) out["defaultErrnoRet"] = *profile.default_error_number;
    if (!profile.architectures.empty()) out["architectures"] = strings_to_json(profile.architectures);
    if (!profile.flags.empty()) out["flags"] = strings_to_json(profile.flags);
    if (!profile.listener_path.empty()) out["listenerPath"] = profile.listener_path;
    if (!profile.listener_metadata.empty()) out["listenerMetadata"] = profile.listener_metadata;
    json::array rules;
    for (const SeccompRule& rule : profile.rules) rules.push_back(rule_to_json(rule));
    if (!rules.empty()) out["syscalls"] = std::move(rules);
    return out;
}

Result<KernelVersion> parse_kernel_version(std::string_view release) {
    KernelVersion version;
    const char* end = release.data() + release.size();
    auto major = std::from_chars(release.data(), end, version.major);
    if (major.ec != std::errc{} || major.ptr == end || *major.ptr != '.')
        return fail(Code::invalid_argument, "no kernel version: \"" + std::string(release) + "\"");
    auto minor = std::from_chars(major.ptr + 1, end, version.minor);
    if (minor.ec != std::errc{})
        return fail(Code::invalid_argument, "no kernel version: \"" + std::string(release) + "\"");
    return version;
}

Result<KernelVersion> running_kernel_version() {
    utsname name{};
    if (::uname(&name) != 0) return fail_errno("uname");
    return parse_kernel_version(name.release);
}

Result<SeccompProfile> resolve_seccomp_profile(std::string_view text, const SeccompConditions& conditions) {
    json::object document = TRY(parse_json_object(text), "seccomp profile");
    JsonReader reader(document, "seccomp");
    SeccompProfile profile;
    TRY(parse_head(reader, profile));
    TRY(resolve_arch_map(reader, profile));
    auto rules = TRY(reader.children("syscalls"));
    if (rules.size() > most_rules) return reader.wrong("syscalls", "at most 4096 rules");
    for (const JsonReader& rule : rules) {
        SeccompRule parsed = TRY(parse_rule(rule));
        if (TRY(applies(rule, conditions))) profile.rules.push_back(std::move(parsed));
    }
    return profile;
}

}  // namespace wherry::confine
