// infonce, forward, leaving out of gradients what holds next to nothing of a row's mass.
//
// With N the mass of a row's negatives so far, canonical, and n its columns, entries are let pass
// whose logit may reach log(drop N / (kReserve n)): N grows with every block, so the level never
// falls. What does not pass is bounded by the scan. In the end the level rises to where all below
// it, bounded or canonical, holds at most drop * N. A row in which more was passed over than that
// is sifted again at the level log(drop N / n), below which no n entries hold more.
//
// Extra memory: a slab's codes and rows, a block's, room for entries of a slab.
#include <cmath>

#include "infonce_harvest.h"
#include "infonce_sieve.h"

namespace stope {
namespace {

constexpr double kReserve = 1.0 / 16;  // measured on embeddings of texts
// Beyond 1 / so much of all entries the dense way is faster, whose products cost half in bfloat16.
constexpr std::int64_t kMostShare[] = {7, 10};
// Room for the entries of a slab: an eighth of all or, where those are many, a 32nd, which is
// near the share at which the dense way is faster.
constexpr std::int64_t kRoomShare = 8, kLeastRoomShare = 32, kMuchRoom = 1 << 22;
constexpr double kSafeRoom = 0.8;  // of that by a sample
constexpr int kLevelSteps = 12;
constexpr double kRough = 1e-5;  // more than the kernels' exponentials are off

class SieveForward : InfonceSieve {
 public:
  SieveForward(const InfonceProblem& problem, Workspace workspace)
      : InfonceSieve(problem, workspace), columns_(infonce_columns(problem)) {
    const std::int64_t threads = std::min(problem.execution.threads, kMaxInfonceThreads);
    const std::int64_t pairs = slab_rows_ * columns_;
    room_ = std::min(pairs / kRoomShare, std::max(pairs / kLeastRoomShare, kMuchRoom)) +
            kMostTileColumns;
    for (std::int64_t t = 0; t < threads; ++t) {
      InfonceHarvest& harvest = harvests_[t];
      harvest.rows = workspace_.take<SiftedRow>(slab_rows_);
      harvest.entries = workspace_.take<SiftedEntry>(room_);
      harvest.by_row = workspace_.take<float>(room_);
      harvest.starts = workspace_.take<std::int64_t>(slab_rows_ + 1);
      for (InfonceSweep& sweep : harvest.sweeps)
        sweep.counts = workspace_.take<std::uint32_t>(all_blocks());
    }
  }
  using InfonceScan::bytes;

  // False where so much would be kept that the dense way is faster, by a sample of strips.
  bool run(const InfonceForward& out) {
    prepare();
    if (wide_) return false;
    const std::int64_t strips = std::clamp<std::int64_t>(rows_ / 2048, 1, 4);
    total_ = slabs_ + 1;
    parallel(strips, [&](std::int64_t strip, int thread) {
      const std::int64_t first = rows_ / strips * strip / kInfonceStrip * kInfonceStrip;
      run_slab(first, std::min(first + kInfonceStrip, rows_), thread, out, {});
    });
    const std::int64_t pairs = strips * kInfonceStrip * columns_;
    const std::int64_t most_share = kMostShare[precision_ == Precision::kBFloat16 ? 1 : 0];
    if (overflow_ || (scored_ + 2 * kept_) / 3 * most_share > pairs) return false;
    const double kept_share = static_cast<double>(kept_) / static_cast<double>(pairs);
    if (kept_share * static_cast<double>(slab_rows_ * columns_) >
        kSafeRoom * static_cast<double>(room_))
      return false;
    ++done_;
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      if (overflow_) return;
      run_slab(slab_begin(slab), slab_end(slab), thread, out,
               SlabMemory(out.memory, slab, slabs_, all_blocks()));
      ++done_;
    });
    if (overflow_) return false;
    finish_rows();
    return true;
  }

 private:
  void run_slab(std::int64_t begin, std::int64_t end, int thread, const InfonceForward& out,
                const SlabMemory& memory) {
    InfonceHarvest& harvest = harvests_[thread];
    find_canonical_limits(begin, end, thread);
    for (std::int64_t i = begin; i < end; ++i) {
      harvest.rows[i - begin] = {{-kInfinity, 0, 0}, 0, 0, kMinusInfinity, 0, false, false};
      out.best_negatives[i] = -1;
      out.best_negative_scores[i] = -kInfinity;
      out.negatives[i] = 0;
      out.ranks[i] = 1;
    }
    harvest.used = harvest.scored = 0;
    harvest.crowd = room_ / 2;
    sweep(begin, end, thread, 0, out);
    if (overflow_) return;
    order_by_row(end - begin, &harvest);
    bool again = false;
    for (std::int64_t r = 0; r < end - begin; ++r) again |= !settle(r, &harvest);
    std::fill_n(harvest.sweeps[1].counts, all_blocks(), 0u);
    harvest.sweeps[1].count = 0;
    if (again) {
      retain(all_blocks(), &harvest,
             [&](const SiftedEntry& entry) { return !harvest.rows[entry.row()].again; });
      sweep(begin, end, thread, 1, out);
      if (overflow_) return;
      order_by_row(end - begin, &harvest);
      for (std::int64_t r = 0; r < end - begin; ++r)
        if (harvest.rows[r].again) settle(r, &harvest);
    }
    remember(harvest, memory);
    for (std::int64_t i = begin; i < end; ++i) finish(i, harvest, i - begin, out);
  }

  void sweep(std::int64_t begin, std::int64_t end, int thread, int number,
             const InfonceForward& out) {
    InfonceHarvest& harvest = harvests_[thread];
    InfonceSweep& sweep = harvest.sweeps[number];
    const std::int64_t before = harvest.used;
    std::int64_t block_number = 0, start = 0;
    const bool again = number > 0;
    for (int p = 0; p < pass_count_; ++p)
      sift(
          passes_[p], begin, end, thread,
          [&](const InfonceTile& tile) {
            const SiftedRow* rows = harvest.rows + tile.slab_row;
            return !overflow_ &&
                   (!again || std::any_of(rows, rows + tile.rows,
                                          [](const SiftedRow& row) { return row.again; }));
          },
          [&](auto...) { start = harvest.used; },
          [&](const InfonceTile& tile, int r, double error) {
            if (harvest.rows[tile.slab_row + r].again == again)
              sift_row(tile, r, error, thread, out);
          },
          [&](auto...) {
            sweep.counts[block_number++] = static_cast<std::uint32_t>(harvest.used - start);
            if (!again && harvest.used > harvest.crowd)
              thin_out(block_number, end - begin, &harvest);
          });
    sweep.count = again ? harvest.used - before : harvest.used;
  }

  // Raises the levels of all rows, leaving to the blocks to come their share of what may go.
  void thin_out(std::int64_t blocks, std::int64_t rows, InfonceHarvest* harvest) {
    const double seen = static_cast<double>(blocks) / static_cast<double>(all_blocks());
    order_by_row(rows, harvest);
    for (std::int64_t r = 0; r < rows; ++r) harvest->rows[r].held = !raise(r, 0.8 * seen, harvest);
    retain(blocks, harvest, [&](const SiftedEntry& entry) {
      return harvest->rows[entry.row()].held || reaches(*harvest, entry);
    });
    harvest->crowd = std::max(harvest->crowd, harvest->used + room_ / 4);
  }

  void sift_row(const InfonceTile& tile, int r, double error, int thread,
                const InfonceForward& out) {
    const std::int64_t i = tile.first_row + r;
    const InfonceSpace& space = spaces_[thread];
    InfonceHarvest& harvest = harvests_[thread];
    SiftedRow& row = harvest.rows[tile.slab_row + r];
    float* scores = space.tile + r * tile_stride_;
    const double slack = logit_error(tile, error);
    const bool documents = tile.pass->first_id >= 0 && !row.again;
    // What does not pass may rank above the positive only where that lies below the level.
    const bool low = documents && is_low(tile, i, row, slack);
    if (low && precision_ == Precision::kFloat32)
      settle_at(best_positive(i), tile, r, error, thread);
    InfonceSurvey survey = {};
    if (tile.plain) {
      survey.kept = tile.columns;
    } else {
      settle_limits(tile, r, error, thread);
      mask_row(tile, r, space, &survey);
      if (survey.kept == 0) return;
    }
    float raw[kMostTileColumns];
    const bool own = has_own_logits(problem_);
    if (documents && own) std::copy_n(scores, tile.columns, raw);
    // Where logits do not rise with scores, the best score may not pass.
    if (documents && (own || tile.terms->log_weights != nullptr))
      find_best(tile, r, survey.largest, error, thread, out);
    give_own_scores(tile, r, space);
    if (!begun(row)) begin_row(tile, scores, slack, &row);
    const double level = level_of(row, slack);
    Passed passed;
    const float rest = pass(tile, r, level, slack, row.sums.reference, thread, &passed);
    row.least = std::max(row.least, level);
    row.rest += static_cast<double>(rest);
    row.certified += static_cast<double>(rest) * std::exp(slack) * (1 + 1e-4);
    if (!row.again) out.negatives[i] += survey.kept;
    if (documents) note(tile, i, passed, own ? raw : scores, low, out);
    take(tile, r, passed, level, thread, &row);
  }

  // A lower bound of the first block's mass, by the scan's scores less their errors.
  void begin_row(const InfonceTile& tile, const float* scores, double slack, SiftedRow* row) const {
    InfonceSums sums = {-kInfinity, 0, 0};
    kernels_.infonce.fold(scores, tile.columns, NAN, tile.terms, &sums);
    row->sums.reference = sums.reference;
    row->first_mass = sums.first * std::exp(-slack);
  }
  static bool begun(const SiftedRow& row) { return row.sums.reference != -kInfinity; }
  // The best passes at any rate: it is the reference, or came as near to it as the scan's error.
  double level_of(const SiftedRow& row, double slack) const {
    if (row.again) return row.least;
    const double mass = std::max(row.sums.first, row.first_mass);
    const double room = problem_.drop * mass - row.certified;
    if (!(room > 0)) return kMinusInfinity;
    const double level = std::log(room / (kReserve * static_cast<double>(columns_)));
    return static_cast<double>(row.sums.reference) + std::min(level, -slack);
  }

  bool is_low(const InfonceTile& tile, std::int64_t i, const SiftedRow& row, double slack) const {
    if (!begun(row) || tile.terms->log_weights != nullptr || has_own_logits(problem_)) return true;
    const auto positive = static_cast<double>(best_positive(i));
    return !(multiplier_of(problem_, tile.pass->kind) * positive > level_of(row, slack));
  }

  // `largest` is the largest of the scan's scores.
  void find_best(const InfonceTile& tile, int r, float largest, double error, int thread,
                 const InfonceForward& out) const {
    const std::int64_t i = tile.first_row + r;
    float* best = &out.best_negative_scores[i];
    const double reached = std::max<double>(*best, static_cast<double>(largest) - error);
    const float* scores = spaces_[thread].tile + r * tile_stride_;
    for (int c = 0; c < tile.columns; ++c) {
      if (static_cast<double>(scores[c]) + error * (1 + 0x1p-20) < reached) continue;
      const float score = canonical(tile, r, c, thread);
      if (!(score > *best)) continue;
      *best = score;
      out.best_negatives[i] = tile.pass->first_id + tile.first_column + c;
    }
  }

  // Ranks and the best, by canonical scores of what passed.
  void note(const InfonceTile& tile, std::int64_t i, const Passed& passed, const float* raw,
            bool low, const InfonceForward& out) const {
    const float positive = best_positive(i);
    std::int64_t above = 0;
    if (low) {
      InfonceSurvey counted = {};
      counted.best = kNoUpperLimit;
      kernels_.infonce.survey(raw, tile.columns, positive, 0, &counted);
      above = counted.above;
    }
    for (int e = 0; e < passed.count; ++e) {
      above += passed.scores[e] > positive ? 1 : 0;
      if (low) above -= raw[passed.columns[e]] > positive ? 1 : 0;
      if (!(passed.scores[e] > out.best_negative_scores[i])) continue;
      out.best_negative_scores[i] = passed.scores[e];
      out.best_negatives[i] = tile.pass->first_id + tile.first_column + passed.columns[e];
    }
    out.ranks[i] += above;
  }

  // Keeps what reaches the level, canonically, and counts the rest.
  void take(const InfonceTile& tile, int r, const Passed& passed, double level, int thread,
            SiftedRow* row) {
    InfonceHarvest& harvest = harvests_[thread];
    if (harvest.used + passed.count > room_) {
      overflow_ = true;
      return;
    }
    harvest.scored += passed.count;
    SiftedEntry* entries = harvest.entries + harvest.used;
    float logits[kMostTileColumns], below[kMostTileColumns];
    int kept = 0, low = 0;
    const std::int64_t place = (tile.slab_row + r) * kMostTileColumns;
    for (int e = 0; e < passed.count; ++e) {
      const float logit = passed.logits[e];
      if (static_cast<double>(logit) < level) {
        below[low++] = logit;
        continue;
      }
      logits[kept] = logit;
      entries[kept++] = {static_cast<std::uint32_t>(place + passed.columns[e]), logit};
    }
    harvest.used += kept;
    if (low > 0) {
      const double mass = mass_below(below, below + low, kNoUpperLimit, *row);
      row->rest += mass;
      row->certified += mass;
    }
    if (kept == 0) return;
    InfonceTerms terms = {};
    terms.kind = kInfonceSoftmax;
    terms.multiplier = 1;
    const float reference = row->sums.reference;
    kernels_.infonce.fold(logits, kept, NAN, &terms, &row->sums);
    if (reference == row->sums.reference) return;
    const double grown =
        std::exp(static_cast<double>(reference) - static_cast<double>(row->sums.reference));
    row->rest *= grown;
    row->certified *= grown;
    row->first_mass *= grown;
  }

  // The mass of logits below `least`, by the kernels' exponentials.
  double mass_below(const float* logits, const float* last, float least,
                    const SiftedRow& row) const {
    const InfonceSieveTerms sieve = {1.0f, nullptr, least, row.sums.reference};
    double mass = 0;
    std::uint64_t bits[kMostTileColumns / 64];
    for (; logits < last; logits += kMostTileColumns) {
      const auto count = static_cast<int>(std::min<std::int64_t>(kMostTileColumns, last - logits));
      mass += static_cast<double>(kernels_.infonce.sift(logits, count, &sieve, bits));
    }
    return mass;
  }

  // The final level of row r, from what has passed. False where it has to be sifted again.
  bool settle(std::int64_t r, InfonceHarvest* harvest) {
    SiftedRow& row = harvest->rows[r];
    if (raise(r, 1.0, harvest) || row.again) return true;
    // What has passed is a lower bound of the row's mass, and n entries below this level hold no
    // more than may go.
    row.again = true;
    row.least = static_cast<double>(row.sums.reference) +
                std::log(0.99 * problem_.drop * row.sums.first / static_cast<double>(columns_));
    row.rest = row.certified = row.sums.first = 0;
    return false;
  }

  // Raises the level of row r as far as `share` of what may still go allows. False where what lies
  // below the level by now is more than that already.
  bool raise(std::int64_t r, double share, InfonceHarvest* harvest) const {
    SiftedRow& row = harvest->rows[r];
    const float* logits = harvest->by_row + harvest->starts[r];
    const float* last = harvest->by_row + harvest->starts[r + 1];
    const double allowed = share * (problem_.drop * row.sums.first * (1 - kRough) - row.certified);
    const auto below = [&](float level) { return mass_below(logits, last, level, row); };
    constexpr float kLowest = -std::numeric_limits<float>::max();
    float least = row.least > static_cast<double>(kLowest)
                      ? std::nextafter(static_cast<float>(row.least), kNoUpperLimit)
                      : kLowest;
    double mass = below(least);
    if (mass > allowed) return false;
    if (!(allowed > 0)) return true;
    // Entries above the highest level are worth more than all that may go.
    auto high = static_cast<float>(static_cast<double>(row.sums.reference) + std::log(allowed));
    float low = least == kLowest ? high - 40 : least;
    for (int step = 0; step < kLevelSteps && high > low; ++step) {
      const float middle = low + 0.5f * (high - low);
      const double more = below(middle);
      if (more > allowed) {
        high = middle;
      } else {
        least = low = middle;
        mass = more;
      }
    }
    row.least = static_cast<double>(least);
    row.rest += mass;
    row.certified += mass;
    row.sums.first -= mass;
    return true;
  }

  void remember(const InfonceHarvest& harvest, const SlabMemory& memory) {
    std::int64_t kept = 0;
    for (std::int64_t e = 0; e < harvest.used; ++e)
      kept += reaches(harvest, harvest.entries[e]) ? 1 : 0;
    kept_ += kept;
    scored_ += harvest.scored;
    if (!memory.begin(kept)) return;
    const auto by_place = [](const SiftedEntry& a, const SiftedEntry& b) {
      return a.place < b.place;
    };
    SiftedEntry* to = memory.entries();
    const SiftedEntry *from = harvest.entries, *more = from + harvest.sweeps[0].count;
    for (std::int64_t b = 0; b < all_blocks(); ++b) {
      const SiftedEntry *end = from + harvest.sweeps[0].counts[b],
                        *more_end = more + harvest.sweeps[1].counts[b], *first = to;
      while (from < end || more < more_end) {
        const bool other = from == end || (more < more_end && by_place(*more, *from));
        const SiftedEntry& entry = other ? *more++ : *from++;
        if (reaches(harvest, entry)) *to++ = entry;
      }
      memory.counts()[b] = static_cast<std::uint32_t>(to - first);
    }
  }
  void finish(std::int64_t i, const InfonceHarvest& harvest, std::int64_t r,
              const InfonceForward& out) {
    const SiftedRow& row = harvest.rows[r];
    const float* logits = harvest.by_row + harvest.starts[r];
    const float* last = harvest.by_row + harvest.starts[r + 1];
    out.kept[i] = std::count_if(
        logits, last, [&](float logit) { return static_cast<double>(logit) >= row.least; });
    const double all = row.sums.first + row.rest;
    out.left_out[i] = all > 0 ? static_cast<float>(row.certified * (1 + kRough) / all) : 0.0f;
    out.state[i] = {static_cast<double>(row.sums.reference), all, row.rest,
                    static_cast<double>(out.negatives[i]),
                    begun(row) ? row.least : std::numeric_limits<double>::infinity()};
    tell_row(i, out);
  }

  const std::int64_t columns_;
  std::int64_t room_ = 0;
  InfonceHarvest harvests_[kMaxInfonceThreads];
  std::atomic<bool> overflow_ = false;
  std::atomic<std::int64_t> scored_ = 0, kept_ = 0;
};

}  // namespace

std::size_t sieve_forward_workspace_bytes(const InfonceProblem& problem) {
  return SieveForward(problem, {}).bytes();
}
bool sieve_forward(const InfonceProblem& problem, const InfonceForward& out) {
  return SieveForward(problem, Workspace(problem.execution)).run(out);
}

}  // namespace stope
