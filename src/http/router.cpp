#include "http/router.hpp"

namespace wherry::http {

std::string_view PathParameters::get(std::string_view name) const {
    for (const auto& [key, value] : items)
        if (key == name) return value;
    return {};
}

PathPattern::PathPattern(std::string_view pattern) {
    while (!pattern.empty()) {
        if (pattern.front() == '/') pattern.remove_prefix(1);
        std::size_t end = pattern.find('/');
        std::string_view text = pattern.substr(0, end);
        pattern = end == std::string_view::npos ? std::string_view{} : pattern.substr(end);
        if (text.starts_with('{') && text.ends_with(":.*}"))
            segments_.push_back({std::string(text.substr(1, text.size() - 5)), Segment::Kind::many});
        else if (text.starts_with('{') && text.ends_with('}'))
            segments_.push_back({std::string(text.substr(1, text.size() - 2)), Segment::Kind::one});
        else
            segments_.push_back({std::string(text), Segment::Kind::literal});
    }
}

bool PathPattern::match(std::string_view path, PathParameters& parameters) const {
    parameters.items.clear();
    if (path.empty() || path.front() != '/') return false;
    path.remove_prefix(1);
    // From the front up to the {many} segment, then from the back; what is left in between is its value.
    std::size_t first = 0;
    std::size_t last = segments_.size();
    bool ended = false;  // the path has no further segment
    for (; first < last && segments_[first].kind != Segment::Kind::many; ++first) {
        if (ended) return false;
        std::size_t slash = path.find('/');
        std::string_view text = path.substr(0, slash);
        ended = slash == std::string_view::npos;
        path = ended ? std::string_view{} : path.substr(slash + 1);
        if (segments_[first].kind == Segment::Kind::literal) {
            if (text != segments_[first].text) return false;
        } else {
            if (text.empty()) return false;
            parameters.items.emplace_back(segments_[first].text, text);
        }
    }
    if (first == last) return ended || (segments_.empty() && path.empty());
    if (ended) return false;
    for (; last > first + 1; --last) {
        std::size_t slash = path.rfind('/');
        if (slash == std::string_view::npos) return false;
        std::string_view text = path.substr(slash + 1);
        path = path.substr(0, slash);
        const Segment& segment = segments_[last - 1];
        if (segment.kind == Segment::Kind::literal) {
            if (text != segment.text) return false;
        } else {
            if (text.empty()) return false;
            parameters.items.emplace_back(segment.text, text);
        }
    }
    if (path.empty()) return false;
    parameters.items.emplace_back(segments_[first].text, path);
    return true;
}

}  // namespace wherry::http
