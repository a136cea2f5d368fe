// Threads work on one ledger for some seconds, without Python, so that sanitizers can watch.
//
// Three workers do both phases, a router claims, aborts and ends, a keeper sweeps and audits. The
// KV pool is plain memory: ThreadSanitizer then also proves that pages change hands only through
// the lock. Usage: ledger_hammer SECONDS. Exits 1, with a line on stderr, when anything is wrong.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "holder.h"
#include "ledger.h"

namespace {

using namespace pdrt;

constexpr Geometry GEOMETRY{.num_pages = 24,
                            .page_size = 4,
                            .num_slots = 12,
                            .max_model_len = 40,
                            .sealed_bound = 3,
                            .max_params_bytes = 16,
                            .max_top_logprobs = 0,
                            .lock_timeout_ms = 200};
constexpr uint32_t NUM_HAMMERS = 3;
constexpr int32_t EOS = 0;

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
  std::_Exit(1);
}

void must(bool good, const char* text) {
  if (!good) fail(text);
}

struct World {
  std::shared_ptr<Ledger> ledger = Ledger::create(GEOMETRY, "hammer");
  const LedgerMemory& memory = ledger->memory();
  std::vector<uint64_t> pool = std::vector<uint64_t>((GEOMETRY.num_pages + 1) * GEOMETRY.page_size);
  std::atomic<bool> closing{false}, closed{false};  // no more claims: asked for, and promised
  std::atomic<bool> over{false};
  std::atomic<uint64_t> finished{0}, claimed{0}, copied{0};

  SlotWord word(uint32_t slot) const { return memory.slot_words[slot].get(); }
  uint32_t num_prompt(uint32_t slot) const { return get(memory.slots[slot].num_prompt_tokens); }
  Length length(uint32_t slot) const { return memory.lengths[slot].get(); }
  uint32_t num_tokens(uint32_t slot) const {
    return num_prompt(slot) + length(slot).num_output_tokens;
  }
  int32_t token(uint32_t slot, uint32_t i) const { return get(memory.tokens_of(slot)[i]); }
  uint64_t& kv(uint32_t slot, uint32_t i) {
    const uint32_t page = memory.list_of(slot)[i / GEOMETRY.page_size].get().page;
    return pool[page * GEOMETRY.page_size + i % GEOMETRY.page_size];
  }
};

uint64_t digest(uint64_t parent, int32_t token) {
  return parent * 1'000'003 + static_cast<uint64_t>(token) + 1;
}
int32_t next_token(uint64_t prefix) { return static_cast<int32_t>(prefix % 11); }

class Hammer {
 public:
  Hammer(World& world, uint32_t instance) : w_(world), holder_(world.ledger, instance) {}

  void turn() {
    for (uint32_t slot = 0; slot < GEOMETRY.num_slots; ++slot) handle(slot);
  }

 private:
  void handle(uint32_t slot) {
    const SlotWord word = w_.word(slot);
    if (word.phase == Phase::QUEUED) {
      holder_.admit(slot, word.generation, [this](auto... of) { return copy(of...); });
    } else if (word.phase == Phase::SEALED) {
      holder_.take(slot, word.generation);
    } else if (word.held_by(holder_.instance())) {
      work(slot, word);
    }
  }

  // Another thread may write the same page now, but behind these tokens.
  bool copy(uint32_t source, uint32_t destination, uint32_t num_tokens) {
    for (uint32_t i = 0; i < num_tokens; ++i) {
      w_.pool[destination * GEOMETRY.page_size + i] = w_.pool[source * GEOMETRY.page_size + i];
    }
    ++w_.copied;
    return true;
  }

  void work(uint32_t slot, SlotWord word) {
    const uint32_t num_tokens = w_.num_tokens(slot), goal = get(w_.memory.slots[slot].goal);
    if (w_.length(slot).finished()) {
      holder_.finish(slot);
    } else if (word.abort) {
      holder_.abort(slot);
    } else if (word.victim && holder_.let_go(slot) == Outcome::DONE) {
      return;
    } else if (word.phase == Phase::PREFILLING && num_tokens > goal) {
      holder_.seal(slot);
    } else if (word.phase == Phase::PREFILLING) {
      step(slot, word, std::min(goal, get(w_.memory.slots[slot].num_computed) + 9));
    } else if (holder_.grow(slot, num_tokens, false) == Outcome::DONE) {
      step(slot, word, num_tokens);
    }
  }

  void step(uint32_t slot, SlotWord word, uint32_t upto) {
    const uint64_t number = holder_.launch();
    const uint64_t prefix = compute(slot, upto);
    Row row{.slot = slot, .generation = word.generation, .num_computed = upto};
    if (upto == w_.num_tokens(slot)) {
      const uint32_t max_tokens = get(w_.memory.slots[slot].max_tokens);
      row.token = next_token(prefix);
      row.logprob = -1.0f;
      const bool last = w_.length(slot).num_output_tokens + 1 == max_tokens;
      row.reason = row.token == EOS ? FinishReason::STOP
                   : last           ? FinishReason::LENGTH
                                    : FinishReason::NONE;
    }
    while (!holder_.boundary(number, {&row, 1})) {
    }
    holder_.beat();
  }

  // Checks the KV of what was computed and writes the rest; returns the digest of all.
  uint64_t compute(uint32_t slot, uint32_t upto) {
    const uint32_t computed = get(w_.memory.slots[slot].num_computed);
    uint64_t prefix = 7;
    for (uint32_t i = 0; i < upto; ++i) {
      prefix = digest(prefix, w_.token(slot, i));
      if (i >= computed) w_.kv(slot, i) = prefix;
      if (w_.kv(slot, i) != prefix) fail(join("slot ", slot, " reads another's KV at ", i));
    }
    return prefix;
  }

  World& w_;
  Holder holder_;
};

class Router {
 public:
  explicit Router(World& world) : w_(world) {}

  void turn() {
    if (!w_.closing) {
      claim();
    } else {
      w_.closed = true;
    }
    for (uint32_t s = 0; s < GEOMETRY.num_slots; ++s) {
      if (w_.word(s).phase == Phase::FINISHED) end(s);
    }
  }

 private:
  void claim() {
    std::vector<int32_t> prompt(1 + random_() % 24);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random_() % 2);
    const uint64_t rank = ++arrivals_;
    const auto claimed = w_.ledger->claim({.request_id = rank,
                                           .rank = rank,
                                           .prompt = prompt,
                                           .max_tokens = 1 + static_cast<uint32_t>(random_() % 16),
                                           .params = "params"});
    if (!claimed) return;
    ++w_.claimed;
    // One client in eight leaves at the time of the next claim, wherever its request is by then.
    if (leaving_) w_.ledger->mark_abort(leaving_->first, leaving_->second);
    leaving_ = random_() % 8 == 0 ? claimed : std::nullopt;
  }

  // Each output token must be what the tokens before it make it.
  void end(uint32_t slot) {
    uint64_t prefix = 7;
    for (uint32_t i = 0; i < w_.num_tokens(slot); ++i) {
      const int32_t token = w_.token(slot, i);
      must(i < w_.num_prompt(slot) || token == next_token(prefix), "a wrong token");
      prefix = digest(prefix, token);
    }
    must(w_.ledger->end(slot, w_.word(slot).generation), "end is refused");
    ++w_.finished;
  }

  World& w_;
  std::minstd_rand random_{1};
  uint64_t arrivals_ = 0;
  std::optional<std::pair<uint32_t, uint32_t>> leaving_;  // slot and generation
};

void audit(World& world) {
  const std::optional<Audit> audit = world.ledger->audit();
  if (audit && !audit->violations.empty()) fail(audit->violations.front());
  must(world.memory.header->counts.get().sum() == GEOMETRY.num_pages, "torn counts");
}

bool all_empty(const World& world) {
  for (uint32_t slot = 0; slot < GEOMETRY.num_slots; ++slot) {
    if (world.word(slot).phase != Phase::EMPTY) return false;
  }
  return true;
}

template <class Turn>
std::thread repeat(World& world, Turn turn) {
  return std::thread([&world, turn]() mutable {
    while (!world.over) turn();
  });
}

void run(int seconds) {
  World world;
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < NUM_HAMMERS; ++i) {
    threads.push_back(repeat(world, [h = Hammer(world, 1u << 8 | i)]() mutable { h.turn(); }));
  }
  threads.push_back(repeat(world, [r = Router(world)]() mutable { r.turn(); }));
  threads.push_back(repeat(world, [&world] { world.ledger->sweep(), audit(world); }));

  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  world.closing = true;
  for (int waited = 0; !world.closed || !all_empty(world); ++waited) {
    if (waited == 3000) fail("requests never finish");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  world.over = true;
  for (std::thread& thread : threads) thread.join();
  audit(world);
  const PageCounts counts = world.memory.header->counts.get();
  must(counts.free + counts.cached == GEOMETRY.num_pages, "pages are still held");
  must(world.finished > 0 && world.finished <= world.claimed, "nothing finished");
  must(world.copied > 0, "no page was copied");
  std::printf("%lu requests, %lu finished, %lu pages copied\n", world.claimed.load(),
              world.finished.load(), world.copied.load());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) fail("usage: ledger_hammer SECONDS");
  run(std::atoi(argv[1]));
}
