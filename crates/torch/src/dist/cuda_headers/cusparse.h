// ATen/cuda/CUDAContextLight.h and Exceptions.h name the handle and the status.
#pragma once
typedef struct cusparseContext* cusparseHandle_t;
enum cusparseStatus_t : int;
