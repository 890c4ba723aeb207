// Bits for pairs of a row and one of up to 64 columns: words by row, turned to words by column.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace stope {

inline constexpr int kWordBits = 64;

// Bit c of word r becomes bit r of word c: squares of 32, 16, ... bits change places.
inline void turn_square(std::uint64_t* words) {
  std::uint64_t low = 0xffffffffu;
  for (int width = kWordBits / 2; width != 0; width /= 2, low ^= low << width)
    for (int r = 0; r < kWordBits; r = (r + width + 1) & ~width) {
      const std::uint64_t differing = ((words[r] >> width) ^ words[r + width]) & low;
      words[r] ^= differing << width;
      words[r + width] ^= differing;
    }
}

// A word for each of `rows` rows becomes `words` words, bits of 64 rows each, for each column.
inline void turn_bits(const std::uint64_t* by_row, std::int64_t rows, std::int64_t columns,
                      std::int64_t words, std::uint64_t* by_column) {
  for (std::int64_t word = 0; word < words; ++word) {
    std::uint64_t square[kWordBits] = {};
    const std::int64_t count = std::clamp<std::int64_t>(rows - word * kWordBits, 0, kWordBits);
    std::copy_n(by_row + word * kWordBits, count, square);
    turn_square(square);
    for (std::int64_t c = 0; c < columns; ++c) by_column[c * words + word] = square[c];
  }
}

inline std::int64_t count_bits(const std::uint64_t* words, std::int64_t count) {
  std::int64_t bits = 0;
  for (std::int64_t i = 0; i < count; ++i) bits += std::popcount(words[i]);
  return bits;
}

// Writes the numbers of the bits that are set; returns how many.
inline std::int64_t list_bits(const std::uint64_t* words, std::int64_t count, std::int32_t* out) {
  std::int64_t listed = 0;
  for (std::int64_t i = 0; i < count; ++i)
    for (std::uint64_t left = words[i]; left != 0; left &= left - 1)
      out[listed++] = static_cast<std::int32_t>(i * kWordBits + std::countr_zero(left));
  return listed;
}

}  // namespace stope
