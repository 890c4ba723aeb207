// The one macro of what host and device share: nvcc builds such a function for both.
#pragma once

#ifdef __CUDACC__
#define STOPE_SHARED __host__ __device__ inline
#else
#define STOPE_SHARED inline
#endif
