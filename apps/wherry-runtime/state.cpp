#include "state.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

namespace wherry::runtime {

Result<> check_id(const std::string& id) {
    bool good = !id.empty() && id.size() <= 255 && id.front() != '.';
    for (char letter : id) {
        good = good &&
               ((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                (letter >= '0' && letter <= '9') || std::string_view("_+-.").find(letter) != std::string_view::npos);
    }
    if (!good) return fail(Code::invalid_argument, "invalid container id \"" + id + "\"");
    return {};
}

namespace {

Result<Fd> lock_directory(const std::string& path) {
    Fd directory = TRY(open_file(path, O_RDONLY | O_DIRECTORY));
    while (::flock(directory.get(), LOCK_EX) < 0) {
        if (errno != EINTR) return fail_errno("lock " + path);
    }
    return directory;
}

}  // namespace

Result<StateDirectory> StateDirectory::create(const std::string& root, const std::string& id) {
    TRY(check_id(id));
    TRY(make_directories(root, 0700));
    std::string path = root + "/" + id;
    if (::mkdir(path.c_str(), 0700) < 0) {
        if (errno == EEXIST) return fail(Code::already_exists, "container with id exists already: " + id);
        return fail_errno("state directory " + path);
    }
    Fd lock = TRY(lock_directory(path));
    return StateDirectory(std::move(path), std::move(lock));
}

Result<StateDirectory> StateDirectory::open(const std::string& root, const std::string& id) {
    TRY(check_id(id));
    std::string path = root + "/" + id;
    auto lock = lock_directory(path);
    if (!lock) return fail(Code::not_found, "container does not exist: " + id);
    if (!path_exists(path + "/state.json")) return fail(Code::not_found, "container does not exist: " + id);
    return StateDirectory(std::move(path), std::move(*lock));
}

Result<> StateDirectory::save(const json::object& state) const {
    return write_file_atomic(path_ + "/state.json", to_json(json::value(state)), 0600, Durability::none);
}

Result<json::object> StateDirectory::load() const {
    std::string text = TRY(read_file(path_ + "/state.json", 16U << 20U));
    return parse_json_object(text);
}

Result<> StateDirectory::remove() const {
    return remove_tree(path_);
}

}  // namespace wherry::runtime
