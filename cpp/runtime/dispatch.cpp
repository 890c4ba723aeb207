#include "dispatch.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "stope/runtime.h"

namespace stope {
namespace {

struct Registry {
  std::vector<KernelTable> tables;
  std::vector<const char*> names;  // ends in nullptr
};

// Tables start as the previous ISA's and overwrite what they improve.
Registry make_registry() {
  Registry registry;
  const auto add = [&](void (*fill)(KernelTable*)) {
    KernelTable table = registry.tables.empty() ? KernelTable{} : registry.tables.back();
    fill(&table);
    registry.tables.push_back(table);
  };
  add(fill_generic);
#if defined(STOPE_X86)
  const CpuFeatures& cpu = cpu_features();
  if (cpu.avx2) add(fill_avx2);
  if (cpu.avxvnni) add(fill_avx2_vnni);
  if (cpu.avx512) add(fill_avx512);
  if (cpu.avx512_bf16) add(fill_avx512_bf16);
  if (cpu.amx) add(fill_amx);
#endif
  for (const KernelTable& table : registry.tables) registry.names.push_back(table.name);
  registry.names.push_back(nullptr);
  return registry;
}

const Registry& registry() {
  static const Registry instance = make_registry();
  return instance;
}

const KernelTable* find(const std::string& name, const char* source) {
  for (const KernelTable& table : registry().tables)
    if (name == table.name) return &table;
  std::string known;
  for (const KernelTable& table : registry().tables)
    known += (known.empty() ? "" : ", ") + std::string(table.name);
  throw std::invalid_argument(std::string(source) + " is '" + name +
                              "', which this machine cannot run; it has " + known);
}

// The last one, but that of pairs of bfloat16 where it would be slower than the one before.
const KernelTable* default_table() {
  const std::vector<KernelTable>& tables = registry().tables;
#if defined(STOPE_X86)
  const CpuFeatures& cpu = cpu_features();
  if (cpu.avx512_bf16 && cpu.slow_pairs && !cpu.amx) return &tables[tables.size() - 2];
#endif
  return &tables.back();
}

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> table{[] {
    const char* wanted = std::getenv("STOPE_ISA");
    return wanted != nullptr && *wanted != '\0' ? find(wanted, "STOPE_ISA") : default_table();
  }()};
  return table;
}

template <typename Loop>
double operations_per_second(Loop loop, double seconds) {
  using Clock = std::chrono::steady_clock;
  std::int64_t operations = 0;
  const auto start = Clock::now();
  double elapsed = 0;
  do {
    operations += loop(10000);
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  return static_cast<double>(operations) / elapsed;
}

}  // namespace

const KernelTable& kernels() { return *current().load(std::memory_order_acquire); }

const char* const* available_isas() { return registry().names.data(); }
const char* current_isa() { return kernels().name; }
void select_isa(const char* name) { current().store(find(name, "isa"), std::memory_order_release); }

KernelWords kernel_words(const char* isa) {
  static_assert(sizeof(KernelTable) % sizeof(std::uintptr_t) == 0);
  return {reinterpret_cast<const std::uintptr_t*>(find(isa, "isa")),
          sizeof(KernelTable) / sizeof(std::uintptr_t)};
}

Peak measure_peak(double seconds) {
  const KernelTable& table = kernels();
  return {operations_per_second(table.int8.peak, seconds),
          operations_per_second(table.bfloat16.peak, seconds),
          operations_per_second(table.peak_float32, seconds)};
}

}  // namespace stope
