// infonce: the contrastive loss of every row, and its gradients, without the matrix of scores.
//
// Row i has positives P_i among the documents; every other column that no mask drops is a
// negative. Scores S are dot products or cosines, logits scale * S (docs/methods.md, H).
#pragma once

#include "stope/matrix.h"

namespace stope {

enum class Objective : std::int32_t {
  kOut,
  kIn,
  kExcl,
  kDecoupled,
  kHardness,
  kPairwise,
  kSigmoid
};

// Whose multiplier of S gets hardness_strength added, without gradient.
enum class Hardness : std::int32_t { kNone, kInBatchNegatives, kHardNegatives, kAllNegatives };

// Which scores share a row's denominator with those of its query against the documents.
struct Directions {
  bool query_to_query = false;
  bool document_to_query = false;
  bool document_to_document = false;
};

// What the loss is told in words and numbers. A new one: a line here, one in
// python/bindings/infonce.cpp, one in python/stope/ops/_infonce_options.py, and its formula in
// cpp/shared/.
struct InfonceOptions {
  Metric metric = Metric::kCosine;            // or kDot
  Precision precision = Precision::kFloat32;  // or kBFloat16
  Objective objective = Objective::kOut;
  Directions directions;
  double scale = 1.0;
  double bias = 0.0;            // sigmoid
  double beta = 0.0;            // hardness
  double positive_prior = 0.0;  // hardness
  bool detach_hardness = false;
  bool focal = false;
  double focal_margin = 0.0;
  bool foreign_hard_negatives = true;        // whether others' count as negatives
  bool documents_see_hard_negatives = true;  // whether document-to-document has them as columns
  double hard_negative_log_weight = 0.0;
  Hardness hardness = Hardness::kNone;
  double hardness_strength = 0.0;
  bool has_absolute_margin = false, has_relative_margin = false;
  double absolute_margin = 0.0, relative_margin = 0.0;
  double drop = 0.0;  // share of a row's negatives' mass that gradients may leave out
};

struct InfonceProblem : InfonceOptions {
  Matrix queries;    // [M, dim]
  Matrix documents;  // [N, dim]
  Matrix queue;      // [K, dim] more columns, without gradient; K may be 0

  IdLists positives;                        // of every query
  const float* positive_weights = nullptr;  // optional, one per positive, > 0
  IdLists exclude;                          // optional: columns that are no negatives
  IdLists hard_negatives;                   // optional: a query's own
  const float* log_weights = nullptr;       // optional [N], of columns as negatives

  const std::int32_t* document_groups = nullptr;  // optional [N]: a positive's group is dropped
  const std::int32_t* queue_groups = nullptr;     // optional [K]
  const float* ceilings = nullptr;                // optional [M]
  const float* floors = nullptr;                  // optional [M]
  Matrix guide_queries;                           // optional: limits are for the guide's cosines
  Matrix guide_documents;
  Matrix guide_queue;
  bool has_guide = false;

  Execution execution;
};

// A row's sums between the passes. softmax: of e^(logit - reference); hardness: of both its
// exponentials; pairwise and sigmoid: of softplus and of its derivative. `kept`: how many negatives
// they are of. Where something was left out, `least` is the lowest logit of what was not, and of a
// softmax `second` is the part of `first` that was; else `least` is -infinity.
struct InfonceState {
  double reference, first, second, kept;
  double least;
};
inline constexpr int kInfonceState = sizeof(InfonceState) / sizeof(double);

// What a forward pass that leaves something out may remember of the rest for the backward pass,
// where it has room; `slots` are words of eight bytes.
struct InfonceMemory {
  std::uint64_t* words = nullptr;
  std::int64_t slots = 0;
};

struct InfonceForward {
  float* losses = nullptr;                 // [M]
  float* log_sum_exp = nullptr;            // [M]
  float* positive_scores = nullptr;        // [positives]
  std::int64_t* negatives = nullptr;       // [M]
  std::int64_t* best_negatives = nullptr;  // [M], -1 for none
  float* best_negative_scores = nullptr;   // [M]
  std::int64_t* ranks = nullptr;           // [M]
  std::int64_t* kept = nullptr;            // [M] negatives with gradient
  float* left_out = nullptr;               // [M] share of the negatives' mass, at most
  InfonceState* state = nullptr;           // [M]
  InfonceMemory memory;
};

struct InfonceBackward {
  const InfonceState* state = nullptr;   // [M] of the forward pass
  InfonceMemory memory;                  // likewise
  const float* row_gradients = nullptr;  // [M] dL / dloss
  float* queries = nullptr;              // [M, dim]
  float* documents = nullptr;            // optional [N, dim]
  double* scale = nullptr;               // dL / dscale; like all of these, on the device
  double* bias = nullptr;                // dL / dbias; likewise
};

std::size_t infonce_forward_workspace_bytes(const InfonceProblem& problem);
void infonce_forward(const InfonceProblem& problem, const InfonceForward& out);

std::size_t infonce_backward_workspace_bytes(const InfonceProblem& problem);
void infonce_backward(const InfonceProblem& problem, const InfonceBackward& out);

// The same on a GPU, with the problem's lists and vectors in host memory; the stub throws
// DeviceError when the library was built without CUDA.
std::size_t infonce_forward_cuda_workspace_bytes(const InfonceProblem& problem);
std::size_t infonce_backward_cuda_workspace_bytes(const InfonceProblem& problem);
void infonce_forward_cuda(const InfonceProblem& problem, const InfonceForward& out);
void infonce_backward_cuda(const InfonceProblem& problem, const InfonceBackward& out);

}  // namespace stope
