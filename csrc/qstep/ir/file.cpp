#include "qstep/ir/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <system_error>
#include <utility>

#include "qstep/core/error.h"

namespace qstep::ir {
namespace {

namespace fs = std::filesystem;

void require_system(bool success, const char* step, const fs::path& path) {
  if (!success) fail("{} '{}': {}", step, path.string(), std::generic_category().message(errno));
}

/// An open file; closed when it goes.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int close() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

/// Removes a file when it goes, unless it was kept.
class Removal {
 public:
  explicit Removal(fs::path path) : path_(std::move(path)) {}
  Removal(const Removal&) = delete;
  Removal& operator=(const Removal&) = delete;
  ~Removal() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  void keep() { path_.clear(); }

 private:
  fs::path path_;
};

// A name that exists nowhere else; short, so that it fits wherever the target's name does.
int create_temporary(const fs::path& folder, fs::path& path) {
  std::random_device random;
  int fd = -1;
  for (int attempt = 0; attempt < 100 && fd < 0; ++attempt) {
    path = folder / fmt::format(".qstep-{:08x}.tmp", random());
    fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno != EEXIST) break;
  }
  return fd;
}

void write_all(int fd, std::span<const uint8_t> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    require_system(written >= 0, "cannot write", path);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

// Makes a rename survive a power loss. Some file systems cannot sync a folder (EINVAL): then there is nothing more to
// do.
void sync_folder(const fs::path& folder) {
  Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  require_system(descriptor.get() >= 0, "cannot open the folder", folder);
  require_system(::fsync(descriptor.get()) == 0 || errno == EINVAL, "cannot sync the folder", folder);
}

}  // namespace

FileContent read_file(const fs::path& path, uint64_t largest) {
  // Not blocking: a pipe must be refused below, not waited for.
  Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  require_system(descriptor.get() >= 0, "cannot open", path);
  struct stat status {};
  require_system(::fstat(descriptor.get(), &status) == 0, "cannot inspect", path);
  require(S_ISREG(status.st_mode), "cannot read '{}': it is not a regular file", path.string());
  const auto size = static_cast<uint64_t>(status.st_size);
  require(size <= largest, "cannot read '{}': at most {} bytes are supported, got {}", path.string(), largest, size);

  FileContent content{std::make_unique_for_overwrite<uint8_t[]>(size), static_cast<size_t>(size)};
  size_t done = 0;
  while (done < content.size) {
    const ssize_t count = ::read(descriptor.get(), content.data.get() + done, content.size - done);
    if (count < 0 && errno == EINTR) continue;
    require_system(count >= 0, "cannot read", path);
    require(count > 0, "cannot read '{}': it became shorter while being read", path.string());
    done += static_cast<size_t>(count);
  }
  return content;
}

void write_file_atomically(const fs::path& path, std::span<const uint8_t> bytes) {
  std::error_code error;
  const fs::path target = fs::is_symlink(path, error) ? fs::weakly_canonical(path, error) : path;
  require(!error || error == std::errc::no_such_file_or_directory, "cannot write '{}': {}", path.string(),
          error.message());
  const auto status = fs::status(target, error);
  require(!fs::exists(status) || fs::is_regular_file(status), "cannot write '{}': it exists and is not a regular file",
          path.string());
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");

  fs::path temporary;
  Descriptor descriptor(create_temporary(folder, temporary));
  require_system(descriptor.get() >= 0, "cannot create a temporary file beside", path);
  Removal removal(temporary);
  write_all(descriptor.get(), bytes, path);
  require_system(::fsync(descriptor.get()) == 0, "cannot sync", path);
  require_system(descriptor.close() == 0, "cannot close", path);
  require_system(::rename(temporary.c_str(), target.c_str()) == 0, "cannot replace", path);
  removal.keep();
  sync_folder(folder);
}

}  // namespace qstep::ir
