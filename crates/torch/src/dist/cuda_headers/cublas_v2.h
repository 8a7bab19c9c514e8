// ATen/cuda/CUDAContextLight.h and Exceptions.h name the handle and the status.
#pragma once
typedef struct cublasContext* cublasHandle_t;
enum cublasStatus_t : int;
