. /tmp/h16/env.sh; export PYTHONPATH=/tmp/h16/snap; cd /tmp/h16/snap
nice -n 6 timeout 2400 pytest -q -n 0 -p no:cacheprovider -p tests.population -m "" --rootdir /tmp/h16 /tmp/h16/test_disks.py > /tmp/h16/disks.log 2>&1
