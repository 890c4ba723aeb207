// Centers as rows are scanned for them call after call: packed in the caller's order, and how far
// each group of them went since the last call.
//
// "Place" is a center's number in that order; a group is of `width` panels side by side. One center
// that went far would cost the bounds of its whole group. So the fastest ones, one panel's worth
// for 32, are packed a second time, to be scanned for themselves: a group's way is then that of its
// others, and its bound is raised to what each fast one scores.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "packing.h"
#include "rows.h"
#include "stope/nearest_centers.h"

namespace stope {

inline constexpr std::int64_t kMostGroups = 64;

inline std::int64_t panels_of(std::int64_t centers) { return divide_up(centers, kLanes); }
inline std::int64_t group_panels(std::int64_t centers) {
  return divide_up(panels_of(centers), kMostGroups);
}

class MovedCenters {
 public:
  MovedCenters(const NearestCentersCall& call, const KernelTable& kernels, const ScanKernels& scan,
               const PanelShape& shape, Workspace* workspace)
      : call_(call),
        kernels_(kernels),
        scan_(scan),
        shape_(shape),
        count_(call.centers.rows),
        panels_(panels_of(count_)),
        width_(group_panels(count_)),
        groups_(center_groups(count_)),
        fast_panels_(call.before.data == nullptr
                         ? 0
                         : std::min((panels_ + kFastShare / 4) / kFastShare, kMostFastPanels)) {
    packed_ = workspace->take<std::int8_t>((panels_ + fast_panels_) * shape.bytes);
    if (!read_in_place(call.centers, call.metric))
      values_ = workspace->take<float>(count_ * shape.depth);
    ways_ = workspace->take<float>(count_);
    group_ways_ = workspace->take<float>(2 * groups_);
    ids_ = workspace->take<std::int64_t>((panels_ + fast_panels_) * kLanes);
    places_ = workspace->take<std::int64_t>(count_);
    fast_places_ = workspace->take<std::int64_t>(count_);
    fast_groups_ = workspace->take<std::int64_t>(fast_panels_ * kLanes);
  }

  std::int64_t panels() const { return panels_; }  // those of the fast ones follow
  std::int64_t width() const { return width_; }
  std::int64_t groups() const { return groups_; }
  std::int64_t fast_panels() const { return fast_panels_; }
  PanelRun run(std::int64_t panel, std::int64_t count) const {
    return {packed_ + panel * shape_.bytes, shape_.bytes, shape_.footer_offset,
            static_cast<int>(count)};
  }
  // Of panels that are all of fast ones, or none is.
  std::int64_t centers_of(std::int64_t panel, std::int64_t panels) const {
    const std::int64_t lanes = panels * kLanes;
    return panel < panels_ ? std::min(lanes, count_ - panel * kLanes) : lanes;
  }
  // Of a place, fast ones counted from the first that follows the panels.
  std::int32_t id(std::int64_t place) const { return static_cast<std::int32_t>(ids_[place]); }
  std::int64_t place(std::int64_t id) const { return places_[id]; }
  // Among the fast ones, or -1.
  std::int64_t fast_place(std::int64_t id) const { return fast_places_[id]; }
  std::int64_t group_of(std::int64_t id) const { return places_[id] / kLanes / width_; }
  // To what each fast center reaches.
  void raise_bounds(const float* by_fast_place, float* by_group) const {
    for (std::int64_t i = 0; i < fast_panels_ * kLanes; ++i)
      by_group[fast_groups_[i]] = std::max(by_group[fast_groups_[i]], by_fast_place[i]);
  }
  void prefetch(std::int64_t id) const {
    prefetch_row(values(id), shape_.depth * std::int64_t{sizeof(float)});
  }
  const float* values(std::int64_t id) const {
    return values_ == nullptr ? static_cast<const float*>(row_data(call_.centers, id))
                              : values_ + id * shape_.depth;
  }
  // The longest way in each group, of all centers or of those that are not fast.
  const float* ways(bool all) const { return all ? group_ways_ : group_ways_ + groups_; }

  // parallel(tasks, body) calls body(task, thread); scratch(thread) holds kLanes rows.
  template <typename Parallel, typename Scratch>
  void prepare(Parallel&& parallel, Scratch&& scratch, RowFault* fault) {
    find_places();
    parallel(panels_, [&](std::int64_t panel, int thread) { pack(panel, scratch(thread), fault); });
    if (call_.before.data == nullptr) return;
    parallel(panels_, [&](std::int64_t panel, int thread) { measure(panel, scratch(thread)); });
    find_fast();
    parallel(fast_panels_, [&](std::int64_t panel, int thread) {
      pack(panels_ + panel, scratch(thread), fault);
    });
  }

 private:
  static constexpr std::int64_t kFastShare = 32, kMostFastPanels = kMostGroups / kLanes;

  void find_places() {
    std::fill_n(places_, count_, std::int64_t{-1});
    for (std::int64_t place = 0; place < count_; ++place) {
      const std::int64_t id = call_.order[place];
      if (id < 0 || id >= count_ || places_[id] >= 0)
        throw std::invalid_argument("order has " + std::to_string(id) + " at " +
                                    std::to_string(place) + "; give each of the " +
                                    std::to_string(count_) + " centers once");
      places_[id] = place;
      ids_[place] = id;
    }
  }

  void pack(std::int64_t panel, float* scratch, RowFault* fault) {
    const std::int64_t* ids = ids_ + panel * kLanes;
    const std::int64_t count = centers_of(panel, 1);
    pack_rows(kernels_, scan_, call_.centers, call_.metric, ids, static_cast<int>(count), shape_,
              scratch, packed_ + panel * shape_.bytes, fault);
    if (values_ == nullptr || panel >= panels_) return;
    for (std::int64_t c = 0; c < count; ++c)
      float_row(kernels_, call_.centers, call_.metric, ids[c], values_ + ids[c] * shape_.depth);
  }

  // How far each center of the panel went, rounded up.
  void measure(std::int64_t panel, float* scratch) {
    const std::int64_t first = panel * kLanes, end = first + centers_of(panel, 1);
    for (std::int64_t place = first; place < end; ++place) {
      const float* from = float_row(kernels_, call_.before, call_.metric, ids_[place], scratch);
      const float* to = values(ids_[place]);
      double sum = 0;
      for (std::int64_t d = 0; d < shape_.depth; ++d) {
        const double step = static_cast<double>(to[d]) - static_cast<double>(from[d]);
        sum += step * step;
      }
      ways_[place] = static_cast<float>(std::sqrt(sum) * (1 + 0x1p-20));
    }
  }

  void find_fast() {
    const std::int64_t fast = fast_panels_ * kLanes;
    std::int64_t* ids = ids_ + panels_ * kLanes;
    std::int64_t* by_way = fast_places_;  // until it is filled
    std::iota(by_way, by_way + count_, std::int64_t{0});
    if (fast > 0)
      std::nth_element(by_way, by_way + fast, by_way + count_, [&](std::int64_t a, std::int64_t b) {
        return ways_[a] != ways_[b] ? ways_[a] > ways_[b] : a < b;
      });
    for (std::int64_t i = 0; i < fast; ++i) ids[i] = ids_[by_way[i]];
    std::fill_n(fast_places_, count_, std::int64_t{-1});
    for (std::int64_t i = 0; i < fast; ++i) {
      fast_places_[ids[i]] = i;
      fast_groups_[i] = group_of(ids[i]);
    }
    std::fill_n(group_ways_, 2 * groups_, 0.0f);
    for (std::int64_t place = 0; place < count_; ++place) {
      float* longest = group_ways_ + place / kLanes / width_;
      longest[0] = std::max(longest[0], ways_[place]);
      if (fast_places_[ids_[place]] < 0)
        longest[groups_] = std::max(longest[groups_], ways_[place]);
    }
  }

  const NearestCentersCall& call_;
  const KernelTable& kernels_;
  const ScanKernels& scan_;
  const PanelShape& shape_;
  const std::int64_t count_, panels_, width_, groups_, fast_panels_;
  std::int8_t* packed_ = nullptr;
  float* values_ = nullptr;      // where centers cannot be read in place
  float* ways_ = nullptr;        // [centers], by place
  float* group_ways_ = nullptr;  // [2][groups]
  std::int64_t* ids_ = nullptr;  // by place
  std::int64_t* places_ = nullptr;
  std::int64_t* fast_places_ = nullptr;
  std::int64_t* fast_groups_ = nullptr;
};

}  // namespace stope
