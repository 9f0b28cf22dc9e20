#include "engine/why.hpp"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/fd.hpp"
#include "engine/names.hpp"

namespace wherry::engine {
namespace {

constexpr std::size_t longest_interpreter = 255;

// The program's file in the root, found as execvp would; empty Fd when there is none.
Fd find_program(int root, const std::string& program, const Strings& environment, const std::string& working_directory,
                std::string& path) {
    const auto try_path = [&](const std::string& candidate) {
        auto file = open_in_root(root, candidate, O_RDONLY | O_NONBLOCK);
        path = candidate;
        return file ? std::move(*file) : Fd{};
    };
    if (program.find('/') != std::string::npos) {
        return try_path(
            program.starts_with('/') ? program : (working_directory.empty() ? "/" : working_directory + "/") + program);
    }
    std::string search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for (const std::string& entry : environment) {
        if (entry.starts_with("PATH=")) search = entry.substr(5);
    }
    std::size_t start = 0;
    while (start <= search.size()) {
        const std::size_t end = std::min(search.find(':', start), search.size());
        if (Fd file = try_path(search.substr(start, end - start) + "/" + program)) return file;
        start = end + 1;
    }
    path = program;
    return {};
}

std::string inspect_elf(int root, int file, const std::string& path, std::string_view head) {
    if (head.size() < sizeof(Elf64_Ehdr)) return path + " is a damaged program";
    if (head[EI_CLASS] == ELFCLASS32) return {};  // may well run
    Elf64_Ehdr header{};
    std::memcpy(&header, head.data(), sizeof header);
    if (header.e_machine != EM_X86_64)
        return path + " is a program for another processor (ELF machine " + std::to_string(header.e_machine) + ")";
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > 256) return path + " is a damaged program";
    for (unsigned i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr segment{};
        const auto offset = static_cast<off_t>(header.e_phoff + (i * sizeof segment));
        if (::pread(file, &segment, sizeof segment, offset) != ssize_t{sizeof segment})
            return path + " is a damaged program";
        if (segment.p_type != PT_INTERP) continue;
        if (segment.p_filesz < 2 || segment.p_filesz > longest_interpreter) return path + " is a damaged program";
        std::string interpreter(segment.p_filesz, '\0');
        if (::pread(file, interpreter.data(), interpreter.size(), static_cast<off_t>(segment.p_offset)) !=
            static_cast<ssize_t>(interpreter.size())) {
            return path + " is a damaged program";
        }
        interpreter.resize(std::strlen(interpreter.c_str()));
        if (!open_in_root(root, interpreter, O_PATH))
            return path + " needs the loader " + interpreter + ", which the image does not have";
    }
    return {};
}

}  // namespace

std::string inspect_program(int root, const std::string& program, const Strings& environment,
                            const std::string& working_directory) {
    std::string path;
    const Fd file = find_program(root, program, environment, working_directory, path);
    if (!file) {
        return program.find('/') != std::string::npos ? "the image has no file " + path
                                                      : "the image has no program " + program + " in its PATH";
    }
    struct stat info{};
    if (::fstat(file.get(), &info) != 0) return {};
    if (S_ISDIR(info.st_mode)) return path + " is a directory";
    if (!S_ISREG(info.st_mode)) return path + " is not a regular file";
    if ((info.st_mode & 0111U) == 0) return path + " is not executable";
    std::array<char, 512> buffer{};
    const ssize_t length = ::pread(file.get(), buffer.data(), buffer.size(), 0);
    if (length < 0) return {};
    const std::string_view head(buffer.data(), static_cast<std::size_t>(length));
    if (head.starts_with("#!")) {
        std::string_view line =
            head.substr(2, head.find('\n') == std::string_view::npos ? std::string_view::npos : head.find('\n') - 2);
        while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
        const bool windows = line.ends_with('\r');
        const std::string interpreter(line.substr(0, line.find_first_of(" \t\r")));
        if (windows) return path + " has Windows line ends: its interpreter reads as \"" + interpreter + "\\r\"";
        if (!interpreter.empty() && !open_in_root(root, interpreter, O_PATH))
            return path + " is a script for " + interpreter + ", which the image does not have";
        return {};
    }
    if (head.starts_with(ELFMAG)) return inspect_elf(root, file.get(), path, head);
    if (head.empty()) return path + " is empty";
    return path + " is neither a program nor a script with a #! line";
}

// " (exit code 1: connection refused)": its last words, as far as they fit into a sentence.
static std::string probe_text(const HealthLogEntry& result) {
    std::string line = result.output.substr(0, result.output.find('\n'));
    if (line.size() > 120) line = line.substr(0, 117) + "...";
    std::string text = result.exit_code < 0 ? std::string() : "exit code " + std::to_string(result.exit_code);
    if (!line.empty()) text += (text.empty() ? "" : ": ") + line;
    return text.empty() ? text : " (" + text + ")";
}

std::string explain(const Container& container, const std::string& finding) {
    const std::string name = container.name;
    const auto sentence = [&](const std::string& text) { return name + " " + text + "."; };
    const auto code = "exit code " + std::to_string(container.exit_code);
    switch (container.phase) {
        case Phase::starting:
            return sentence("is starting");
        case Phase::paused:
            return sentence("is paused; it has not ended");
        case Phase::removing:
            return sentence("is being removed");
        case Phase::dead:
            return sentence("is dead: " + container.error);
        case Phase::running: {
            std::string text = "is running, since " + format_rfc3339_short(container.started_at);
            if (container.health && container.health->status == "unhealthy") {
                text += ", but its health check fails";
                if (!container.health->log.empty()) text += probe_text(container.health->log.back());
            }
            if (!container.denied_syscall.empty())
                text += "; its seccomp profile denied it the system call " + container.denied_syscall;
            return sentence(text);
        }
        case Phase::created:
            if (container.error.empty()) return sentence("was never started");
            return sentence("did not start: " + (finding.empty() ? container.error : finding));
        case Phase::restarting:
        case Phase::exited:
            break;
    }
    std::string text;
    if (!container.error.empty() && container.exit_code != 255 && container.finished_at <= container.created) {
        return sentence("did not start: " + (finding.empty() ? container.error : finding));
    }
    if (container.oom_killed) {
        const std::int64_t limit = container.host_config().resources.memory;
        text = limit > 0 ? "was killed because it needed more than its memory limit of " + human_bytes(limit)
                         : "was killed because the host ran out of memory";
        text += " (" + code + ")";
    } else if (!container.error.empty()) {
        text = "did not start: " + (finding.empty() ? container.error : finding) + " (" + code + ")";
    } else if (container.manually_stopped) {
        text = "was stopped by a user";
        text += container.exit_signal != 0 ? " and ended by " + signal_name(container.exit_signal) + " (" + code + ")"
                                           : " (" + code + ")";
    } else if (container.exit_signal != 0) {
        text = "was ended by " + signal_name(container.exit_signal) + " (" + code + ")";
    } else if (container.exit_code == 0) {
        text = "ended by itself with success (exit code 0)";
    } else {
        text = "ended by itself with " + code;
        if (container.exit_code == 127)
            text += ": a command was not found";
        else if (container.exit_code == 126)
            text += ": a command could not be run";
        else if (container.exit_code > 128 && container.exit_code < 128 + 65)
            text += ": a process of it was ended by " + signal_name(static_cast<int>(container.exit_code) - 128);
    }
    if (!container.denied_syscall.empty())
        text += ", after its seccomp profile denied it the system call " + container.denied_syscall;
    if (container.phase == Phase::restarting)
        text += "; it will be restarted (restart " + std::to_string(container.restart_count) + ")";
    return sentence(text);
}

}  // namespace wherry::engine
