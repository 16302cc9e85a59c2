module tickstorm.dev/client

go 1.19
