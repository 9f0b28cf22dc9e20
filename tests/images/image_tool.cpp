// The image store from a command line, for tests/images and measurements; not installed.
//
//     image_tool DATA_ROOT import FILE [CHANGE...]     image_tool DATA_ROOT load FILE|FOLDER
//     image_tool DATA_ROOT save FILE ID[=NAME]...      image_tool DATA_ROOT list|layers|gc
//     image_tool DATA_ROOT verify|show|rm ID           image_tool DATA_ROOT prepare|changes|export|size CONTAINER ID
//     [FILE] image_tool DATA_ROOT commit CONTAINER ID         image_tool DATA_ROOT hold (until stdin ends)
// FILE "-" is a stream that is no descriptor. WHERRY_MAX_BYTES and WHERRY_MAX_ENTRIES set limits.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "image/image_store.hpp"

namespace {

using namespace wherry;
using namespace wherry::image;

Result<ByteSource> open_source(const std::string& path) {
    if (path == "-") {
        return ByteSource::from_function([](std::span<std::byte> buffer) -> Result<std::size_t> {
            ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
            if (count < 0) return fail_errno("read stdin");
            return static_cast<std::size_t>(count);
        });
    }
    return ByteSource::from_fd(TRY(open_file(path, O_RDONLY)));
}

Result<> write_to(const std::string& path, const std::function<Result<>(const ByteSink&)>& write) {
    Fd file = path == "-" ? Fd(::dup(STDOUT_FILENO)) : TRY(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    return write(sink_to_fd(file.get()));
}

Result<> print_loaded(const std::vector<LoadedImage>& loaded) {
    for (const auto& image : loaded) {
        std::printf("%s", image.id.c_str());
        for (const auto& name : image.names) std::printf(" %s", name.c_str());
        std::printf("\n");
    }
    return {};
}

Result<> on_container(ImageStore& store, const std::string& verb, const std::vector<std::string>& words) {
    std::vector<std::string> chain = TRY(store.image(words.at(1))).config.diff_ids;
    if (verb == "prepare") {
        RootFilesystem root = TRY(store.layers().prepare(words[0], chain));
        for (const auto& lower : root.lowers) std::printf("lower %s\n", lower.c_str());
        std::printf("upper %s\nwork %s\n", root.upper.c_str(), root.work.c_str());
    } else if (verb == "changes") {
        for (const auto& change : TRY(store.layers().changes(words[0], chain, {}))) {
            std::printf("%c %s\n", "CAD"[static_cast<int>(change.kind)], change.path.c_str());
        }
    } else if (verb == "size") {
        std::printf("%llu\n", static_cast<unsigned long long>(TRY(store.layers().upper_size(words[0]))));
    } else if (verb == "export") {
        return write_to(words.at(2),
                        [&](const ByteSink& sink) { return store.layers().write_root_tar(words[0], chain, sink); });
    } else {
        std::string id =
            TRY(store.commit({.container_id = words[0], .parent_image_id = words[1], .comment = "commit"}));
        std::printf("%s\n", id.c_str());
    }
    return {};
}

Result<> act(ImageStore* store, const std::string& verb, const std::vector<std::string>& words) {
    if (verb == "import") {
        ByteSource source = TRY(open_source(words.at(0)));
        std::printf("%s\n", TRY(store->import_rootfs(source, {.changes = {words.begin() + 1, words.end()}})).c_str());
    } else if (verb == "load") {
        struct stat status{};
        if (words.at(0) != "-" && ::stat(words[0].c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
            return print_loaded(TRY(store->load_directory(words[0], {})));
        }
        ByteSource source = TRY(open_source(words[0]));
        return print_loaded(TRY(store->load(source, {})));
    } else if (verb == "save") {
        std::vector<SaveItem> items;
        for (std::size_t i = 1; i < words.size(); ++i) {
            std::size_t equals = words[i].find('=');
            SaveItem item{.image_id = words[i].substr(0, equals), .names = {}};
            if (equals != std::string::npos) item.names.push_back(words[i].substr(equals + 1));
            items.push_back(std::move(item));
        }
        return write_to(words.at(0), [&](const ByteSink& sink) { return store->save(items, sink); });
    } else if (verb == "list") {
        for (const auto& image : TRY(store->list()))
            std::printf("%s %llu\n", image.id.c_str(), static_cast<unsigned long long>(image.size_bytes));
    } else if (verb == "layers") {
        for (const auto& layer : TRY(store->layers().list())) std::printf("%s\n", layer.diff_id.c_str());
    } else if (verb == "show") {
        std::printf("%s\n", TRY(store->image(words.at(0))).config_json.c_str());
    } else if (verb == "verify") {
        return store->verify(words.at(0));
    } else if (verb == "rm") {
        (void)TRY(store->remove(words.at(0), {}));
    } else if (verb == "gc") {
        (void)TRY(store->collect_garbage({}));
    } else if (verb == "hold") {
        while (std::getchar() != EOF) {
        }
    } else {
        TRY(on_container(*store, verb, words));
    }
    return {};
}

Result<> run(const std::string& root, const std::string& verb, const std::vector<std::string>& words) {
    ImageStoreOptions options{.data_root = root};
    if (const char* bytes = std::getenv("WHERRY_MAX_BYTES"))
        options.limits.max_bytes = std::strtoull(bytes, nullptr, 10);
    if (const char* entries = std::getenv("WHERRY_MAX_ENTRIES"))
        options.limits.max_entries = std::strtoull(entries, nullptr, 10);
    auto store = TRY(ImageStore::open(options));
    auto result = act(store.get(), verb, words);
    if (std::getenv("WHERRY_NO_DRAIN") == nullptr) store->layers().drain();
    return result;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    std::signal(SIGPIPE, SIG_DFL);
    auto result = run(argv[1], argv[2], {argv + 3, argv + argc});
    if (result) return 0;
    std::fprintf(stderr, "%s: %s\n", std::string(to_string(result.error().code())).c_str(),
                 result.error().describe().c_str());
    return 1;
}
