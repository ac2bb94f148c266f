// The pool of threads, hard used: every piece runs exactly once, what one thread writes the caller reads, an exception
// comes back to whoever caused it and leaves the pool usable, and many callers share it. Meant for ThreadSanitizer.
//
//   pool [ROUNDS]
#include "engine/pool.h"

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>

namespace {

void fail(const std::string& what) {
  std::fprintf(stderr, "pool: %s\n", what.c_str());
  std::exit(1);
}

// A round: sums over rows that the pieces of the round before wrote; no atomics, the barrier alone orders them.
void chain(sl::Pool& pool, int threads, int pieces) {
  std::vector<long> before(size_t(pieces), 1), after(size_t(pieces), 0);
  std::vector<int> runs(size_t(pieces), 0);
  sl::Pool::Lease lease(pool, threads);
  if (lease.threads() < 1 || lease.threads() > threads) fail("a lease of " + std::to_string(lease.threads()));
  for (int round = 0; round < 3; ++round) {
    lease.run(pieces, [&](int piece, int worker) {
      if (worker < 0 || worker >= lease.threads()) fail("worker " + std::to_string(worker));
      after[size_t(piece)] = std::accumulate(before.begin(), before.end(), 0L) + piece;
      ++runs[size_t(piece)];
    });
    before.swap(after);
  }
  long first = 0, second = pieces, third = 0;  // sums of the three rounds
  const long index = long(pieces) * (pieces - 1) / 2;
  first = second * pieces + index;
  second = first * pieces + index;
  third = second * pieces + index;
  if (std::accumulate(before.begin(), before.end(), 0L) != third) fail("a piece read what was not finished");
  for (int count : runs)
    if (count != 3) fail("a piece ran " + std::to_string(count) + " times, not 3");
}

void throwing(sl::Pool& pool, int threads) {
  sl::Pool::Lease lease(pool, threads);
  try {
    lease.run(16, [](int piece, int) {
      if (piece % 5 == 3) throw std::runtime_error("on purpose");
    });
  } catch (const std::runtime_error& error) {
    if (std::string(error.what()) != "on purpose") fail(error.what());
    return;
  }
  fail("the exception did not come back");
}

void callers(sl::Pool& pool, int rounds, int most) {
  std::vector<std::thread> threads;
  for (int caller = 0; caller < 4; ++caller)
    threads.emplace_back([&, caller] {
      for (int i = 0; i < rounds; ++i) {
        chain(pool, 1 + (i + caller) % most, 1 + (i * 7 + caller) % 23);
        if (i % 11 == caller) throwing(pool, 1 + i % most);
      }
    });
  for (auto& thread : threads) thread.join();
}

}  // namespace

int main(int count, char** words) {
  const int rounds = count > 1 ? std::atoi(words[1]) : 300;
  for (int i = 0; i < rounds; ++i) {
    sl::Pool pool;  // grows from few threads to more while it is in use
    for (int threads : {2, 3, 3, 5, 2, 6}) {
      chain(pool, threads, 13);
      if (threads == 5) throwing(pool, threads);
    }
  }
  callers(sl::Pool::shared(), rounds, 6);
  std::printf("pool: %d rounds\n", rounds);
  return 0;
}
