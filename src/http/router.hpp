// Finds what a method and path lead to.
//
//     Router<Handler> router;
//     router.add("GET", "/images/{name:.*}/json", inspect_image);
//     auto match = router.find("GET", "/images/debian/stable:12/json");   // match.parameters["name"]
//
// A pattern is literal segments, {name} for one segment and at most one {name:.*} for one or more segments. The first
// added pattern that matches wins. HEAD finds what was added for HEAD only.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace wherry::http {

struct PathParameters {
    std::vector<std::pair<std::string_view, std::string>> items;
    // Empty when the pattern has no such name.
    std::string_view get(std::string_view name) const;
};

class PathPattern {
  public:
    explicit PathPattern(std::string_view pattern);
    // True when the decoded path matches; then parameters are filled.
    bool match(std::string_view path, PathParameters& parameters) const;

  private:
    struct Segment {
        std::string text;  // literal, or the parameter's name
        enum class Kind : unsigned char { literal, one, many } kind;
    };
    std::vector<Segment> segments_;
};

template <class Target>
class Router {
  public:
    struct Match {
        const Target* target = nullptr;  // nullptr: none
        PathParameters parameters;
        bool path_known = false;  // another method would have matched
    };

    void add(std::string_view method, std::string_view pattern, Target target) {
        routes_.push_back({std::string(method), PathPattern(pattern), std::move(target)});
    }

    Match find(std::string_view method, std::string_view path) const {
        Match match;
        for (const Route& route : routes_) {
            // The method is the cheap comparison; a known path matters only when nothing matches.
            if (route.method != method || !route.pattern.match(path, match.parameters)) continue;
            match.target = &route.target;
            match.path_known = true;
            return match;
        }
        for (const Route& route : routes_) {
            if (!route.pattern.match(path, match.parameters)) continue;
            match.path_known = true;
            break;
        }
        return match;
    }

  private:
    struct Route {
        std::string method;
        PathPattern pattern;
        Target target;
    };
    std::vector<Route> routes_;
};

}  // namespace wherry::http
