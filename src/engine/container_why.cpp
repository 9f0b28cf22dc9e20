#include "engine/container_service.hpp"
#include "engine/why.hpp"

namespace wherry::engine {

asio::awaitable<Result<std::string>> ContainerService::why(std::string reference) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    std::string finding;
    if (!container->error.empty() && !container->is_running()) {
        auto looked = co_await core_.pool.run([this, container]() -> Result<std::string> {
            const Fd root =
                TRY(core_.images->layers().open_root(container->id, container->diff_ids, image::RootAccess::read_only));
            return inspect_program(root.get(), container->path, container->config().env,
                                   container->config().working_dir);
        });
        if (looked) finding = std::move(*looked);
    }
    std::string sentence = explain(*container, finding);
    if (const SandboxPtr sandbox = sandbox_of(*container)) {
        if (sentence.ends_with('.')) sentence.pop_back();
        sentence += " (in the sandbox " + sandbox->name + ").";
    }
    co_return sentence;
}

}  // namespace wherry::engine
