// A small pool of threads that all engines share. Whoever holds it runs steps on it; others run alone meanwhile.
#pragma once
#include <atomic>
#include <exception>
#include <cstdint>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace sl {

class Pool {
 public:
  using Work = std::function<void(int piece, int worker)>;
  static Pool& shared();  // anew in a forked child, whose threads are gone
  ~Pool();

  // While it lives, its holder's `run` may use up to `threads` threads, the caller's own among them.
  class Lease {
   public:
    Lease(Pool& pool, int threads);
    ~Lease();
    int threads() const { return threads_; }
    void run(int pieces, const Work& work);  // all pieces; the first exception is thrown on after the last piece

   private:
    Pool& pool_;
    int threads_;
    bool held_;
  };

 private:
  void grow(int workers);
  void loop(int worker, uint32_t seen);
  bool enter();
  void take(int worker);
  static int first_of(std::atomic<uint64_t>& range);
  static int last_of(std::atomic<uint64_t>& range);

  static constexpr uint32_t OPEN = 1u << 31;
  std::mutex holder_;
  std::vector<std::thread> threads_;
  // A round is a door. Workers who come while it is open go in; the caller shuts it when no piece is left, and waits for
  // those inside alone: a worker whom a busy machine has not run yet is nobody's loss.
  std::atomic<uint32_t> round_{0};    // a new round of work: what workers wait for
  std::atomic<uint32_t> door_{0};     // OPEN, and how many workers are inside
  // Neighbouring pieces read and write neighbouring memory, step after step: each worker has a range of its own, so that
  // it finds in its cache what it wrote there, and takes from the ends of the others' when it has done.
  struct alignas(64) Range {
    std::atomic<uint64_t> left{0};  // the next piece << 32 | one past the last
  };
  std::vector<Range> ranges_;         // one a worker that may take part, the caller's first
  std::atomic<bool> stop_{false};
  int active_ = 0;                    // workers 1 .. active_ take part
  const Work* work_ = nullptr;
  std::mutex failing_;
  std::exception_ptr failure_;
};

int cpus();  // that this process may use

}  // namespace sl
