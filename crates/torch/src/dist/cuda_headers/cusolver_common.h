// ATen/cuda/Exceptions.h names the status.
#pragma once
enum cusolverStatus_t : int;
