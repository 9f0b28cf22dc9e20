#include "cli/template.hpp"

#include <algorithm>
#include <map>

#include "base/json.hpp"
#include "cli/template_functions.hpp"
#include "cli/template_tree.hpp"

namespace wherry::cli {

namespace {

using namespace template_detail;

constexpr std::size_t output_limit = 256U << 20U;

class Execution {
  public:
    Execution(const json::value& data, const TemplateOptions& options) : options_(options) {
        variables_.emplace_back("", Value{data});
    }

    Result<std::string> run(const Tree& tree, const json::value& data) {
        TRY(walk(tree.nodes, Value{data}));
        return std::move(output_);
    }

  private:
    enum class Flow : unsigned char { normal, stop, next };

    Result<Flow> walk(const std::vector<Node>& nodes, const Value& dot) {
        std::size_t scope = variables_.size();
        for (const Node& node : nodes) {
            Flow flow = Flow::normal;
            switch (node.kind) {
                case Node::Kind::text:
                    output_ += node.text;
                    break;
                case Node::Kind::action: {
                    Value value = TRY(evaluate(node.pipeline, dot));
                    if (node.pipeline.variables.empty()) output_ += TRY(printed(value));
                    break;
                }
                case Node::Kind::condition: {
                    std::size_t before = variables_.size();
                    bool yes = truth(TRY(evaluate(node.pipeline, dot)));
                    flow = TRY(walk(yes ? node.body : node.otherwise, dot));
                    variables_.resize(before);
                    break;
                }
                case Node::Kind::with: {
                    std::size_t before = variables_.size();
                    Value value = TRY(evaluate(node.pipeline, dot));
                    flow = truth(value) ? TRY(walk(node.body, value)) : TRY(walk(node.otherwise, dot));
                    variables_.resize(before);
                    break;
                }
                case Node::Kind::range:
                    TRY(range(node, dot));
                    break;
                case Node::Kind::stop:
                    flow = Flow::stop;
                    break;
                case Node::Kind::next:
                    flow = Flow::next;
                    break;
            }
            if (output_.size() > output_limit) return fail(Code::resource_exhausted, "template: output is too long");
            if (flow != Flow::normal) {
                variables_.resize(scope);
                return flow;
            }
        }
        variables_.resize(scope);
        return Flow::normal;
    }

    Result<> range(const Node& node, const Value& dot) {
        std::size_t before = variables_.size();
        Value value = TRY(evaluate(node.pipeline, dot, /*declare=*/false));
        const auto& names = node.pipeline.variables;
        std::size_t count = 0;
        auto step = [&](json::value key, const json::value& item) -> Result<bool> {
            ++count;
            if (names.size() == 1) variables_.emplace_back(names[0], Value{item});
            if (names.size() > 1) {
                variables_.emplace_back(names[0], Value{std::move(key)});
                variables_.emplace_back(names[1], Value{item});
            }
            Flow flow = TRY(walk(node.body, Value{item}));
            variables_.resize(before);
            return flow != Flow::stop;
        };
        if (value.json.is_array()) {
            std::int64_t index = 0;
            for (const json::value& item : value.json.get_array())
                if (!TRY(step(index++, item))) break;
        } else if (value.json.is_object()) {
            std::map<std::string_view, const json::value*> sorted;
            for (const auto& member : value.json.get_object()) sorted.emplace(member.key(), &member.value());
            for (const auto& [key, item] : sorted)
                if (!TRY(step(json::value(key), *item))) break;
        } else if (!value.json.is_null()) {
            return fail(Code::invalid_argument, "template: range can't iterate over " + print_value(value.json));
        }
        if (count == 0) TRY(walk(node.otherwise, dot));
        return {};
    }

    Result<Value> evaluate(const Pipeline& pipeline, const Value& dot, bool declare = true) {
        std::optional<Value> piped;
        for (const Call& call : pipeline.calls) piped = TRY(evaluate(call, dot, std::move(piped)));
        if (declare && !pipeline.variables.empty()) {
            const std::string& name = pipeline.variables.back();
            if (pipeline.assignment) {
                auto found = std::ranges::find(variables_.rbegin(), variables_.rend(), name,
                                               &std::pair<std::string, Value>::first);
                if (found == variables_.rend())
                    return fail(Code::invalid_argument, "template: undefined variable \"$" + name + "\"");
                found->second = *piped;
            } else {
                variables_.emplace_back(name, *piped);
            }
        }
        return std::move(*piped);
    }

    Result<Value> evaluate(const Call& call, const Value& dot, std::optional<Value> piped) {
        const Operand& first = call.front();
        if (first.kind == Operand::Kind::function) {
            if (first.name == "and" || first.name == "or") {
                // Lazily, as Go does: "and .State .State.Health" must not look at the second.
                Value value;
                for (std::size_t i = 1; i < call.size(); ++i) {
                    value = TRY(operand(call[i], dot));
                    if (truth(value) == (first.name == "or")) return value;
                }
                return piped ? std::move(*piped) : std::move(value);
            }
            std::vector<Value> arguments;
            for (std::size_t i = 1; i < call.size(); ++i) arguments.push_back(TRY(operand(call[i], dot)));
            if (piped) arguments.push_back(std::move(*piped));
            Value value = TRY(call_function(first.name, arguments, options_));
            return follow(std::move(value), first, {});
        }
        std::vector<Value> arguments;
        for (std::size_t i = 1; i < call.size(); ++i) arguments.push_back(TRY(operand(call[i], dot)));
        if (piped) arguments.push_back(std::move(*piped));
        return operand(first, dot, arguments);
    }

    Result<Value> operand(const Operand& item, const Value& dot, const std::vector<Value>& arguments = {}) {
        Value base;
        switch (item.kind) {
            case Operand::Kind::dot:
                base = dot;
                break;
            case Operand::Kind::literal:
                base = Value{item.literal};
                break;
            case Operand::Kind::nil:
                base = Value{json::value()};
                break;
            case Operand::Kind::parenthesis:
                base = TRY(evaluate(*item.inner, dot));
                break;
            case Operand::Kind::function: {
                base = TRY(call_function(item.name, {}, options_));
                break;
            }
            case Operand::Kind::variable: {
                auto found = std::ranges::find(variables_.rbegin(), variables_.rend(), item.name,
                                               &std::pair<std::string, Value>::first);
                if (found == variables_.rend())
                    return fail(Code::invalid_argument,
                                "template parsing error: template: :1: undefined variable \"$" + item.name + "\"");
                base = found->second;
                break;
            }
        }
        if (!arguments.empty() && item.fields.empty())
            return fail(Code::invalid_argument,
                        "template: can't give argument to non-function " + print_value(base.json));
        return follow(std::move(base), item, arguments);
    }

    Result<Value> follow(Value value, const Operand& item, const std::vector<Value>& arguments) {
        const std::vector<std::string>& fields = item.fields;
        std::size_t column = item.column;
        // Where a member is not there, as Go says it: the column of the member, and the whole chain.
        auto nothing = [&](const std::string& name, std::size_t at) {
            Value none;
            none.missing = name;
            std::string chain;
            for (const std::string& field : fields) chain += "." + field;
            none.where = ":1:" + std::to_string(at) + ": executing \"\" at <" + chain + ">";
            return none;
        };
        for (std::size_t i = 0; i < fields.size(); ++i) {
            const std::string& name = fields[i];
            bool last = i + 1 == fields.size();
            if (!value.missing.empty()) return missing_entry(value);
            if (i > 0) column += fields[i - 1].size() + 1;
            if (options_.method) {
                std::vector<json::value> plain;
                if (last)
                    for (const Value& argument : arguments) plain.push_back(argument.json);
                if (auto result = options_.method(value.json, name, plain)) {
                    value = Value{std::move(*result)};
                    continue;
                }
            }
            if (last && !arguments.empty())
                return fail(Code::invalid_argument,
                            "template: <." + name + ">: has arguments but cannot be invoked as function");
            if (value.json.is_object()) {
                const json::value* found = value.json.get_object().if_contains(name);
                if (found == nullptr) {
                    value = nothing(name, column);
                } else {
                    Value next{*found};
                    next.field = name;
                    value = std::move(next);
                }
            } else if (value.json.is_null()) {
                value = nothing(name, column);
            } else {
                return fail(Code::invalid_argument, "template: :1: executing \"\" at <." + name +
                                                        ">: can't evaluate field " + name + " in type " +
                                                        std::string(type_name(value.json)));
            }
        }
        return value;
    }

    const TemplateOptions& options_;
    std::vector<std::pair<std::string, Value>> variables_;
    std::string output_;
};

}  // namespace

Result<Template> Template::parse(std::string_view text) {
    return Template(std::make_shared<const Tree>(TRY(parse_tree(text))));
}

Result<std::string> Template::execute(const json::value& data, const TemplateOptions& options) const {
    return Execution(data, options).run(*tree_, data);
}

}  // namespace wherry::cli
