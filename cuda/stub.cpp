// The CUDA functions of a build without CUDA: each says so.
#include "stope/error.h"
#include "stope/group_sums.h"
#include "stope/hard_negatives.h"
#include "stope/infonce.h"
#include "stope/neighbors.h"
#include "stope/runtime.h"
#include "stope/similarity.h"
#include "stope/topk.h"

namespace stope {
namespace {

[[noreturn]] void refuse(const char* operation) {
  static constexpr char kText[] =
      " was given arrays on a CUDA device, but this stope was built without CUDA; move them to the "
      "CPU, or build with STOPE_CUDA=ON";
  char message[256];
  std::size_t n = 0;
  for (const char* p = operation; *p != '\0' && n < 64; ++p) message[n++] = *p;
  for (const char* p = kText; *p != '\0'; ++p) message[n++] = *p;
  message[n] = '\0';
  throw DeviceError(message);
}

}  // namespace

void similarity_cuda(const SimilarityCall&) { refuse("similarity"); }
void pack_cuda(const PackCall&) { refuse("FlatIndex"); }
void topk_cuda(const TopkCall&) { refuse("topk"); }
void pairs_above_cuda(const PairsAboveCall&) { refuse("pairs_above"); }
void nearest_earlier_cuda(const NearestEarlierCall&) { refuse("nearest_earlier"); }
void group_sums_cuda(const GroupSumsCall&) { refuse("kmeans"); }
void pair_scores_cuda(const PairScoresCall&) { refuse("mine_hard_negatives"); }
void infonce_forward_cuda(const InfonceProblem&, const InfonceForward&) { refuse("infonce"); }
void infonce_backward_cuda(const InfonceProblem&, const InfonceBackward&) { refuse("infonce"); }
bool cuda_built() { return false; }
int cuda_device_of(const void*) { refuse("stope"); }
bool cuda_is_pinned(const void*) { refuse("stope"); }
void cuda_order_after(Device, void*, void*) { refuse("stope"); }

}  // namespace stope
