-- Results of every size, in both directions; all of it the same on each run.
create table items (id int primary key, name text, body text);
insert into items select i, 'item ' || i, repeat(md5(i::text), i % 200) from generate_series(1, 5000) i;
select count(*), sum(length(body)), md5(string_agg(body, ',' order by id)) from items;
select id, name, md5(body) from items order by id;
\copy items to 'items.copy'
create table again (like items);
\copy again from 'items.copy'
select count(*), md5(string_agg(body, ',' order by id)) from again;
begin;
declare c cursor for select body from items where id <= 100 order by id;
fetch 50 from c;
rollback;
select repeat('x', 20000000) = repeat('x', 20000000) as same, md5(repeat('y', 20000000));
select repeat('z', 5000000);
select 1 / 0;
\timing off
listen news;
notify news, 'first';
select length(string_agg(name, '')) from again;
