#include "pool.h"

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace sl {

namespace {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int SPINS = 3000;  // some 40 microseconds: longer than the gap between two ops, shorter than anyone notices

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return long(getpid());
#else
  return 0;
#endif
}

}  // namespace

int cpus() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? int(n) : 1;
}

Pool& Pool::shared() {
  static std::mutex making;
  static Pool* pool = nullptr;  // never destroyed: threads may outlive the static objects of a dying process
  static long owner = -1;
  std::lock_guard<std::mutex> lock(making);
  if (!pool || owner != process()) {
    pool = new Pool;
    owner = process();
  }
  return *pool;
}

Pool::~Pool() {
  stop_ = true;
  round_.fetch_add(1);
  round_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Pool::grow(int workers) {
  while (int(threads_.size()) < workers) {
    const int number = int(threads_.size()) + 1;
    const uint32_t seen = round_.load();  // no round begins while a lease grows the pool
    threads_.emplace_back([this, number, seen] { loop(number, seen); });
  }
}

void Pool::loop(int worker, uint32_t seen) {
  for (;;) {
    int spins = 0;
    while (round_.load(std::memory_order_acquire) == seen) {
      if (++spins < SPINS) pause();
      else round_.wait(seen, std::memory_order_acquire);
    }
    seen = round_.load(std::memory_order_acquire);
    if (stop_) return;
    if (!enter()) continue;
    take(worker);
    door_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

bool Pool::enter() {
  uint32_t door = door_.load(std::memory_order_relaxed);
  while (door & OPEN)
    if (door_.compare_exchange_weak(door, door + 1, std::memory_order_acq_rel)) return true;
  return false;
}

int Pool::first_of(std::atomic<uint64_t>& range) {
  uint64_t left = range.load(std::memory_order_relaxed);
  while (uint32_t(left >> 32) < uint32_t(left))
    if (range.compare_exchange_weak(left, left + (uint64_t(1) << 32), std::memory_order_relaxed)) return int(left >> 32);
  return -1;
}

int Pool::last_of(std::atomic<uint64_t>& range) {
  uint64_t left = range.load(std::memory_order_relaxed);
  while (uint32_t(left >> 32) < uint32_t(left))
    if (range.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) return int(uint32_t(left)) - 1;
  return -1;
}

void Pool::take(int worker) {
  if (worker > active_) return;
  for (int other = 0; other <= active_; ++other) {
    auto& range = ranges_[size_t((worker + other) % (active_ + 1))].left;
    for (int i; (i = other ? last_of(range) : first_of(range)) >= 0;) {
      try {
        (*work_)(i, worker);
      } catch (...) {
        std::lock_guard<std::mutex> lock(failing_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
  }
}

Pool::Lease::Lease(Pool& pool, int threads) : pool_(pool), threads_(1), held_(threads > 1 && pool.holder_.try_lock()) {
  if (!held_) return;
  try {
    pool.grow(threads - 1);
    threads_ = threads;
  } catch (const std::system_error&) {  // no more threads to be had: fewer do it
    threads_ = int(pool.threads_.size()) + 1 < threads ? int(pool.threads_.size()) + 1 : threads;
  }
}

Pool::Lease::~Lease() {
  if (held_) pool_.holder_.unlock();
}

void Pool::Lease::run(int pieces, const Work& work) {
  if (threads_ == 1 || pieces == 1) {
    for (int i = 0; i < pieces; ++i) work(i, 0);
    return;
  }
  Pool& p = pool_;
  p.work_ = &work;
  p.active_ = threads_ - 1;
  p.failure_ = nullptr;
  if (int(p.ranges_.size()) < threads_) p.ranges_ = std::vector<Range>(size_t(threads_));
  for (int64_t t = 0; t < threads_; ++t)
    p.ranges_[size_t(t)].left.store(uint64_t(pieces * t / threads_) << 32 | uint64_t(pieces * (t + 1) / threads_),
                                    std::memory_order_relaxed);
  p.door_.store(OPEN, std::memory_order_release);
  p.round_.fetch_add(1, std::memory_order_release);
  p.round_.notify_all();
  p.take(0);
  p.door_.fetch_and(~OPEN, std::memory_order_acq_rel);
  for (int spins = 0; p.door_.load(std::memory_order_acquire) != 0;) {
    if (++spins < SPINS) pause();
    else std::this_thread::yield();
  }
  if (p.failure_) std::rethrow_exception(p.failure_);
}

}  // namespace sl
